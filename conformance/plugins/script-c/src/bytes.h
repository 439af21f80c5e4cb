// Byte strings: views of memory that has another owner, and ones that grow.

#ifndef SCRIPT_BYTES_H
#define SCRIPT_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A view. A view of nothing has a null pointer, the empty string has not.
struct slice {
    const uint8_t *data;
    size_t size;
};

// A string that grows. All zeros is an empty one.
struct bytes {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

struct slice slice_of(const char *text);
struct slice slice_from(struct slice slice, size_t start);
bool slices_equal(struct slice a, struct slice b);
bool slice_is(struct slice slice, const char *text);

// A part of a slice; the empty string when it is not all there.
struct slice slice_part(struct slice slice, size_t start, size_t size);

// Where a byte is; the size of the slice when it is nowhere.
size_t slice_find(struct slice slice, uint8_t byte);

// Takes what stands before the next separator off a text. False: nothing is left.
bool slice_split(struct slice *rest, uint8_t separator, struct slice *part);

// Makes room for `count` items in all. Ends the program when there is no memory, as every allocation here does.
void *grown(void *items, size_t *capacity, size_t count, size_t item_size);

struct slice bytes_view(const struct bytes *bytes);
void bytes_reserve(struct bytes *bytes, size_t more);
void bytes_add(struct bytes *bytes, struct slice more);
void bytes_add_text(struct bytes *bytes, const char *text);
void bytes_add_byte(struct bytes *bytes, uint8_t byte);
void bytes_add_decimal(struct bytes *bytes, uint64_t number);
void bytes_add_hex(struct bytes *bytes, uint8_t byte);
void bytes_clear(struct bytes *bytes);

#endif
