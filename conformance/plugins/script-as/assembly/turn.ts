// What one callback works with.

import { NOTHING, address, decode } from "./bytes";
import { ScriptStream } from "./contexts";
import { integer, shown } from "./values";

export class Turn {
  /** The last token, number or size that a hostcall gave, for `$`. */
  last: u32 = 0;
  /** What the callback returns. */
  result: u32 = 0;
  trace: string;
  /** Of the line that is carried out. */
  arguments: Uint8Array[] = [];

  constructor(public stream: ScriptStream, callback: string) {
    this.trace = " " + callback;
  }

  has(index: i32): bool {
    return index < this.arguments.length;
  }

  bytes(index: i32): Uint8Array {
    if (!this.has(index)) return NOTHING;
    return this.arguments[index];
  }

  text(index: i32): string {
    return decode(this.bytes(index));
  }

  /** Where an argument is, for a hostcall. */
  at(index: i32): usize {
    return address(this.bytes(index));
  }

  /** How long an argument is, for a hostcall. */
  size(index: i32): u32 {
    return this.bytes(index).length;
  }

  /** A number, `$` for the last one that a hostcall gave, or `self` for the stream's own. */
  number(index: i32): u32 {
    const text = this.text(index);
    if (text == "$") return this.last;
    if (text == "self") return this.stream.context_id;
    return <u32>integer(text);
  }

  say(operation: string, status: u32): void {
    this.trace += " " + operation + "=" + status.toString();
  }

  /** Adds to what has been said. */
  sayMore(text: string): void {
    this.trace += text;
  }

  sayValue(operation: string, status: u32, value: Uint8Array | null): void {
    this.say(operation, status);
    if (value !== null) this.sayMore(":" + shown(value));
  }
}
