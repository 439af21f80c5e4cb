#include "bytes.h"

#include <stdlib.h>
#include <string.h>

struct slice slice_of(const char *text)
{
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

struct slice slice_part(struct slice slice, size_t start, size_t size)
{
    if (start > slice.size || size > slice.size - start) {
        return slice_of("");
    }
    return (struct slice){slice.data + start, size};
}

struct slice slice_from(struct slice slice, size_t start)
{
    return start > slice.size ? slice_of("") : slice_part(slice, start, slice.size - start);
}

bool slices_equal(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

bool slice_is(struct slice slice, const char *text)
{
    return slices_equal(slice, slice_of(text));
}

size_t slice_find(struct slice slice, uint8_t byte)
{
    size_t at = 0;
    while (at < slice.size && slice.data[at] != byte) {
        at++;
    }
    return at;
}

bool slice_split(struct slice *rest, uint8_t separator, struct slice *part)
{
    if (rest->size == 0) {
        return false;
    }
    size_t at = slice_find(*rest, separator);
    *part = slice_part(*rest, 0, at);
    *rest = slice_from(*rest, at + 1);
    return true;
}

void *grown(void *items, size_t *capacity, size_t count, size_t item_size)
{
    if (count <= *capacity) {
        return items;
    }
    size_t wanted = *capacity > SIZE_MAX / 2 || *capacity * 2 < count ? count : *capacity * 2;
    size_t size;
    if (__builtin_mul_overflow(wanted, item_size, &size)) {
        abort();
    }
    void *more = realloc(items, size);
    if (more == NULL) {
        abort();
    }
    *capacity = wanted;
    return more;
}

struct slice bytes_view(const struct bytes *bytes)
{
    return bytes->size == 0 ? slice_of("") : (struct slice){bytes->data, bytes->size};
}

void bytes_reserve(struct bytes *bytes, size_t more)
{
    size_t count;
    if (__builtin_add_overflow(bytes->size, more, &count)) {
        abort();
    }
    bytes->data = grown(bytes->data, &bytes->capacity, count, 1);
}

void bytes_add(struct bytes *bytes, struct slice more)
{
    if (more.size == 0) {
        return;
    }
    bytes_reserve(bytes, more.size);
    memcpy(bytes->data + bytes->size, more.data, more.size);
    bytes->size += more.size;
}

void bytes_add_text(struct bytes *bytes, const char *text)
{
    bytes_add(bytes, slice_of(text));
}

void bytes_add_byte(struct bytes *bytes, uint8_t byte)
{
    bytes_add(bytes, (struct slice){&byte, 1});
}

void bytes_add_decimal(struct bytes *bytes, uint64_t number)
{
    if (number >= 10) {
        bytes_add_decimal(bytes, number / 10);
    }
    bytes_add_byte(bytes, (uint8_t)('0' + number % 10));
}

void bytes_add_hex(struct bytes *bytes, uint8_t byte)
{
    static const char digits[] = "0123456789abcdef";
    bytes_add_byte(bytes, (uint8_t)digits[byte >> 4]);
    bytes_add_byte(bytes, (uint8_t)digits[byte & 15]);
}

void bytes_clear(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}
