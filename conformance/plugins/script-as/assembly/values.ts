// How values are written in scripts and in the trace.
//
// Here and elsewhere objects are chosen with `if`: of `return a ? b : c`, where one is made on the spot and the other is a
// variable, asc 0.14 gives the variable's object back when it has already been released.

import { NOTHING, Writer, decode, encode, part, word } from "./bytes";

const COMMA: u8 = 0x2c;
const EQUALS: u8 = 0x3d;
const PERCENT: u8 = 0x25;
const QUESTION_MARK: u8 = 0x3f;

/** How much of a value the trace shows. */
const SHOWN_MAX = 120;

/** Headers that each proxy sets in its own way. */
const OWN: string[] = [
  "x-request-id",
  "x-forwarded-for",
  "date",
  "server",
  "x-envoy-upstream-service-time",
  "x-case",
  "x-script",
];

/** A value in the trace: what could be mistaken for the trace itself is escaped. */
export function shown(value: Uint8Array): string {
  let out = "";
  for (let i = 0; i < min(value.length, SHOWN_MAX); i++) {
    const byte = value[i];
    const isPlain = byte > 0x20 && byte < 0x7f && byte != PERCENT;
    if (isPlain) out += String.fromCharCode(byte);
    else out += escaped(byte);
  }
  if (value.length > SHOWN_MAX) out += "…" + value.length.toString();
  return out;
}

function escaped(byte: u8): string {
  const digits = "0123456789abcdef";
  return "%" + digits.charAt(byte >> 4) + digits.charAt(byte & 15);
}

/** An argument of a script: it is percent-encoded, `-` stands for the empty one. */
export function argument(text: string): Uint8Array {
  if (text == "-") return NOTHING;
  const bytes = encode(text);
  const out = new Writer();
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] == PERCENT) {
      out.byte(unescaped(bytes.subarray(i + 1, i + 3)));
      i += 2;
    } else {
      out.byte(bytes[i]);
    }
  }
  return out.written();
}

function unescaped(digits: Uint8Array): u8 {
  let byte = 0;
  for (let i = 0; i < digits.length; i++) {
    const value = "0123456789abcdef".indexOf(String.fromCharCode(digits[i]).toLowerCase());
    if (value < 0) return QUESTION_MARK;
    byte = byte * 16 + value;
  }
  return digits.length == 0 ? QUESTION_MARK : <u8>byte;
}

/** A whole decimal number, 0 when the text is none or the number is too long. */
export function integer(text: string): i64 {
  const isNegative = text.startsWith("-");
  // Negative until the end: the least number has no positive counterpart.
  let number: i64 = 0;
  for (let i = isNegative || text.startsWith("+") ? 1 : 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9 || number < (i64.MIN_VALUE + digit) / 10) return 0;
    number = number * 10 - digit;
  }
  if (isNegative) return number;
  return number == i64.MIN_VALUE ? 0 : -number;
}

/** `k=v,k=v` as the ABI's pair list; a single `!` makes one that is malformed. */
export function pairs(text: Uint8Array): Uint8Array {
  const out = new Writer();
  if (decode(text) == "!") {
    out.word(5);
    out.word(1);
    return out.written();
  }
  const list = split(text, COMMA);
  out.word(list.length);
  for (let i = 0; i < list.length; i++) {
    const size = keySize(list[i]);
    out.word(size);
    out.word(valueOf(list[i], size).length);
  }
  for (let i = 0; i < list.length; i++) {
    const size = keySize(list[i]);
    out.bytes(list[i].subarray(0, size));
    out.byte(0);
    out.bytes(valueOf(list[i], size));
    out.byte(0);
  }
  return out.written();
}

/** The pieces between separators, without the empty ones. */
function split(text: Uint8Array, separator: u8): Uint8Array[] {
  const out: Uint8Array[] = [];
  let start = 0;
  for (let i = 0; i <= text.length; i++) {
    if (i < text.length && text[i] != separator) continue;
    if (i > start) out.push(text.subarray(start, i));
    start = i + 1;
  }
  return out;
}

function keySize(pair: Uint8Array): i32 {
  const at = pair.indexOf(EQUALS);
  return at < 0 ? pair.length : at;
}

function valueOf(pair: Uint8Array, keySize: i32): Uint8Array {
  return pair.subarray(keySize + 1);
}

/** The pairs of a map, as `k=v,k=v`, without those that each proxy sets in its own way. */
export function listed(encoded: Uint8Array): string {
  const out: string[] = [];
  const count = word(encoded, 0);
  let at = 4 + count * 8;
  for (let i: u32 = 0; i < count; i++) {
    const keySize = word(encoded, 4 + i * 8);
    const valueSize = word(encoded, 8 + i * 8);
    const key = part(encoded, at, keySize);
    const value = part(encoded, at + keySize + 1, valueSize);
    at += keySize + valueSize + 2;
    if (!OWN.includes(decode(key))) out.push(shown(key) + "=" + shown(value));
  }
  return out.join(",");
}
