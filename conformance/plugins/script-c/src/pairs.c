#include "pairs.h"

#include "trace.h"

enum { WORD_BYTES = 4, SIZES_BYTES = 2 * WORD_BYTES };

static void add_word(struct bytes *out, size_t number)
{
    for (unsigned shift = 0; shift < 32; shift += 8) {
        bytes_add_byte(out, (uint8_t)(number >> shift));
    }
}

// The next pair of a text; one without anything in it is passed over.
static bool next_pair(struct slice *rest, struct slice *key, struct slice *value)
{
    struct slice pair;
    while (slice_split(rest, ',', &pair)) {
        if (pair.size > 0) {
            size_t at = slice_find(pair, '=');
            *key = slice_part(pair, 0, at);
            *value = slice_from(pair, at + 1);
            return true;
        }
    }
    return false;
}

struct bytes pairs_encoded(struct slice text)
{
    struct bytes out = {0};
    if (slice_is(text, "!")) {
        // Five pairs, and not even the sizes of the first are complete.
        add_word(&out, 5);
        add_word(&out, 1);
        return out;
    }
    struct slice key;
    struct slice value;
    size_t count = 0;
    for (struct slice rest = text; next_pair(&rest, &key, &value);) {
        count++;
    }
    add_word(&out, count);
    for (struct slice rest = text; next_pair(&rest, &key, &value);) {
        add_word(&out, key.size);
        add_word(&out, value.size);
    }
    for (struct slice rest = text; next_pair(&rest, &key, &value);) {
        bytes_add(&out, key);
        bytes_add_byte(&out, 0);
        bytes_add(&out, value);
        bytes_add_byte(&out, 0);
    }
    return out;
}

// The number at the beginning of a list, which loses it; 0 when it is not all there.
static size_t take_word(struct slice *encoded)
{
    size_t number = 0;
    if (encoded->size >= WORD_BYTES) {
        for (size_t i = WORD_BYTES; i > 0; i--) {
            number = number << 8 | encoded->data[i - 1];
        }
    }
    *encoded = slice_from(*encoded, WORD_BYTES);
    return number;
}

// The string at the beginning of what follows the sizes, which loses it and the zero behind it.
static struct slice take_string(struct slice *strings, size_t size)
{
    struct slice string = slice_part(*strings, 0, size);
    *strings = size < strings->size ? slice_from(*strings, size + 1) : slice_of("");
    return string;
}

static bool is_own(struct slice key)
{
    static const char *const own[] = {
        "x-request-id", "x-forwarded-for", "date", "server", "x-envoy-upstream-service-time", "x-case", "x-script",
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (slice_is(key, own[i])) {
            return true;
        }
    }
    return false;
}

void pairs_add_listed(struct bytes *out, struct slice encoded)
{
    struct slice sizes = encoded;
    size_t count = take_word(&sizes);
    // A list that announces more pairs than it has room for ends where it ends.
    if (count > sizes.size / SIZES_BYTES) {
        count = sizes.size / SIZES_BYTES;
    }
    struct slice strings = slice_from(sizes, count * SIZES_BYTES);
    const char *separator = "";
    for (size_t i = 0; i < count; i++) {
        size_t key_size = take_word(&sizes);
        size_t value_size = take_word(&sizes);
        struct slice key = take_string(&strings, key_size);
        struct slice value = take_string(&strings, value_size);
        if (is_own(key)) {
            continue;
        }
        bytes_add_text(out, separator);
        trace_add_shown(out, key);
        bytes_add_byte(out, '=');
        trace_add_shown(out, value);
        separator = ",";
    }
}
