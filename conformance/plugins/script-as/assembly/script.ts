// Scripts, as the configuration has them.

import { argument, integer } from "./values";

/** What `which` is when a step is for every call of its callback. Calls are counted from 1. */
const EVERY_CALL: i32 = 0;
/** What it is when the step is for the call with end of stream. */
const LAST_CALL: i32 = -1;

/** One line of a script. */
export class Step {
  constructor(
    public callback: string,
    public which: i32,
    public operation: string,
    public arguments: Uint8Array[],
  ) {}

  isFor(callback: string, call: i32, end: bool): bool {
    if (this.callback != callback) return false;
    return this.which == EVERY_CALL || (this.which == LAST_CALL ? end : this.which == call);
  }
}

/** Scripts by name: `script NAME` begins one, every further line is `CALLBACK OPERATION ARGUMENT…`. */
export function parse(text: string): Map<string, Step[]> {
  const scripts = new Map<string, Step[]>();
  let script: Step[] = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const words = split(lines[i]);
    if (words.length == 0) continue;
    if (words[0] == "script") {
      const name = wordAt(words, 1);
      if (!scripts.has(name)) scripts.set(name, []);
      script = scripts.get(name);
    } else {
      script.push(step(words));
    }
  }
  return scripts;
}

function split(line: string): string[] {
  return line.trim().replaceAll("\t", " ").split(" ").filter((word) => word.length > 0);
}

function wordAt(words: string[], index: i32): string {
  if (index >= words.length) return "";
  return words[index];
}

function step(words: string[]): Step {
  const first = words[0].split("@");
  const which = whichCall(wordAt(first, 1));
  const operands = words.slice(2).map<Uint8Array>((word) => argument(word));
  return new Step(first[0], which, wordAt(words, 1), operands);
}

/** What stands behind the `@`. Without a number the step is for every call. */
function whichCall(text: string): i32 {
  return text == "end" ? LAST_CALL : <i32>integer(text);
}

/** The configuration is the text itself, or a JSON object with the text in `script`. */
export function scriptText(configuration: string): string {
  const start = '"script":"';
  const at = configuration.indexOf(start);
  if (at < 0) return configuration;
  return unquoted(configuration, at + start.length);
}

/** A JSON string, of which the first character has this place. It is joined from long pieces: it is long itself. */
function unquoted(json: string, first: i32): string {
  const pieces: string[] = [];
  let start = first;
  let i = first;
  for (; i < json.length && json.charAt(i) != '"'; i++) {
    if (json.charAt(i) != "\\") continue;
    pieces.push(json.substring(start, i));
    start = ++i;
    if (json.charAt(i) != "n") continue;
    pieces.push("\n");
    start++;
  }
  pieces.push(json.substring(start, i));
  return pieces.join("");
}
