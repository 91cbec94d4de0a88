// Marks in a stream that the host and other streams can wait for: part of the platform, see platform.h. Each throws KernelError.
#pragma once
#include "platform.h"

namespace trefoil::cuda::platform {

using Event = struct EventHandle*;

Event create_event();
void destroy_event(Event event);
void record(Event event, Stream stream);
void wait_for(Stream stream, Event event);  // what is asked of the stream from now on comes after the mark
void wait(Event event);  // for what the stream had before the mark; at once where nothing was recorded

}  // namespace trefoil::cuda::platform
