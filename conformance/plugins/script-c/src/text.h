// Text of scripts: words, numbers, UTF-8.

#ifndef SCRIPT_TEXT_H
#define SCRIPT_TEXT_H

#include "bytes.h"

// Takes the next word off a text; it is empty when there is none.
struct slice next_word(struct slice *rest);

// Whether a text is a number without a minus, of at most `max`.
bool text_to_unsigned(struct slice text, unsigned base, uint64_t max, uint64_t *number);

// A number of 64 bits with a sign, in two's complement; 0 when the text is none.
uint64_t text_to_signed(struct slice text);

// Adds a text that other programs read as UTF-8: each sequence that is not valid becomes U+FFFD.
void bytes_add_utf8(struct bytes *out, struct slice text);

#endif
