// What hostcalls give back.

import { free } from "@solo-io/proxy-runtime/malloc";

/** Where a hostcall leaves bytes: it writes their address and size here. */
export class Given {
  private pointer: usize = 0;
  private size: u32 = 0;

  pointerAt(): usize {
    return changetype<usize>(this) + offsetof<Given>("pointer");
  }

  sizeAt(): usize {
    return changetype<usize>(this) + offsetof<Given>("size");
  }

  /** Takes the bytes over, once. There are none when the call did not succeed, or had nothing to give. */
  taken(status: u32): Uint8Array | null {
    if (status != 0 || this.pointer == 0) return null;
    // It is a buffer of ours: the host got it from the runtime's `malloc`, which holds a reference until `free`.
    const bytes = Uint8Array.wrap(changetype<ArrayBuffer>(this.pointer), 0, this.size);
    free(this.pointer);
    return bytes;
  }
}
