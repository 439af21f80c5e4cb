// Bytes, as hostcalls take and give them.

export const NOTHING = new Uint8Array(0);

/** Where bytes are in memory. They have to live until the hostcall is over. */
export function address(bytes: Uint8Array): usize {
  return bytes.dataStart;
}

export function encode(text: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(text));
}

export function decode(bytes: Uint8Array): string {
  return String.UTF8.decodeUnsafe(address(bytes), bytes.length);
}

/** A part of bytes: nothing when they do not reach so far. */
export function part(bytes: Uint8Array, start: u32, length: u32): Uint8Array {
  const end = <u64>start + <u64>length;
  if (end > <u64>bytes.length) return NOTHING;
  return bytes.subarray(start, <i32>end);
}

/** The word at a place: 0 when the bytes do not reach so far. */
export function word(bytes: Uint8Array, start: u32): u32 {
  const four = part(bytes, start, 4);
  return four.length < 4 ? 0 : load<u32>(address(four));
}

/** Bytes that grow. */
export class Writer {
  private list: Array<u8> = [];

  byte(byte: u8): void {
    this.list.push(byte);
  }

  word(word: u32): void {
    for (let i = 0; i < 4; i++) this.byte(<u8>(word >> (i * 8)));
  }

  bytes(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) this.byte(bytes[i]);
  }

  written(): Uint8Array {
    const out = new Uint8Array(this.list.length);
    for (let i = 0; i < out.length; i++) out[i] = this.list[i];
    return out;
  }
}
