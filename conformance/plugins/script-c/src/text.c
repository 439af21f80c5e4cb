#include "text.h"

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

struct slice next_word(struct slice *rest)
{
    size_t start = 0;
    while (start < rest->size && is_blank(rest->data[start])) {
        start++;
    }
    size_t end = start;
    while (end < rest->size && !is_blank(rest->data[end])) {
        end++;
    }
    struct slice word = slice_part(*rest, start, end - start);
    *rest = slice_from(*rest, end);
    return word;
}

static unsigned digit(uint8_t byte)
{
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    uint8_t letter = byte | 0x20;
    return letter >= 'a' && letter <= 'z' ? letter - 'a' + 10U : UINT8_MAX;
}

static bool digits_to_number(struct slice digits, unsigned base, uint64_t max, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < digits.size; i++) {
        unsigned value = digit(digits.data[i]);
        if (value >= base || __builtin_mul_overflow(*number, base, number) ||
            __builtin_add_overflow(*number, value, number) || *number > max) {
            return false;
        }
    }
    return digits.size > 0;
}

static bool starts_with(struct slice text, uint8_t byte)
{
    return text.size > 0 && text.data[0] == byte;
}

bool text_to_unsigned(struct slice text, unsigned base, uint64_t max, uint64_t *number)
{
    struct slice digits = starts_with(text, '+') ? slice_from(text, 1) : text;
    return digits_to_number(digits, base, max, number);
}

uint64_t text_to_signed(struct slice text)
{
    uint64_t number;
    if (starts_with(text, '-')) {
        uint64_t lowest = (uint64_t)INT64_MAX + 1;
        return digits_to_number(slice_from(text, 1), 10, lowest, &number) ? -number : 0;
    }
    return text_to_unsigned(text, 10, INT64_MAX, &number) ? number : 0;
}

// What can follow the first byte of a character: how many bytes, and the range of the first of them.
struct continuation {
    size_t count;
    uint8_t low;
    uint8_t high;
};

static bool continuation_of(uint8_t first, struct continuation *after)
{
    *after = (struct continuation){0, 0x80, 0xbf};
    if (first < 0x80) {
        return true;
    }
    if (first < 0xc2 || first > 0xf4) {
        return false;
    }
    after->count = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    // The bounds rule out longer forms than needed, surrogates and what is beyond Unicode.
    after->low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    after->high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return true;
}

// The size of the character at the beginning, or of the beginning of one.
static size_t character(struct slice text, bool *is_valid)
{
    struct continuation after;
    *is_valid = continuation_of(text.data[0], &after);
    size_t size = 1;
    for (; *is_valid && size <= after.count; size++) {
        uint8_t low = size == 1 ? after.low : 0x80;
        uint8_t high = size == 1 ? after.high : 0xbf;
        if (size == text.size || text.data[size] < low || text.data[size] > high) {
            *is_valid = false;
            break;
        }
    }
    return size;
}

void bytes_add_utf8(struct bytes *out, struct slice text)
{
    while (text.size > 0) {
        bool is_valid;
        size_t size = character(text, &is_valid);
        bytes_add(out, is_valid ? slice_part(text, 0, size) : slice_of("\xef\xbf\xbd"));
        text = slice_from(text, size);
    }
}
