// A shared library that is no backend at all.
extern "C" __attribute__((visibility("default"))) int stranger(void) { return 0; }
