// The operations by name. The files in `operations` add theirs when the module starts.

import { Step } from "./script";
import { Turn } from "./turn";

type Operation = (turn: Turn) => void;

const operations = new Map<string, Operation>();

export function operation(name: string, run: Operation): void {
  operations.set(name, run);
}

/** Carries one line out. */
export function carryOut(turn: Turn, step: Step): void {
  turn.arguments = step.arguments;
  if (operations.has(step.operation)) {
    operations.get(step.operation)(turn);
  } else {
    turn.sayMore(" no-such-operation:" + step.operation);
  }
}
