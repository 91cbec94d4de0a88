/** A question of one or more lines, answered by the line that follows. */
export interface Question {
  /** Ends where the answer begins. */
  readonly prompt: string;
  /** One right answer. */
  readonly answer: string;
  /** Whether some other line is right as well. Default: only the answer itself, white space around it aside. */
  readonly accepts?: (line: string) => boolean;
}
