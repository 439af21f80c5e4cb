#include "trace.h"

// The longest part of a value that is shown.
enum { SHOWN_BYTES_MAX = 120 };

void trace_add_status(struct bytes *trace, struct slice operation, uint32_t status)
{
    bytes_add_byte(trace, ' ');
    bytes_add(trace, operation);
    bytes_add_byte(trace, '=');
    bytes_add_decimal(trace, status);
}

void trace_add_shown(struct bytes *trace, struct slice value)
{
    for (size_t i = 0; i < value.size && i < SHOWN_BYTES_MAX; i++) {
        uint8_t byte = value.data[i];
        if (byte > ' ' && byte <= '~' && byte != '%') {
            bytes_add_byte(trace, byte);
        } else {
            bytes_add_byte(trace, '%');
            bytes_add_hex(trace, byte);
        }
    }
    if (value.size > SHOWN_BYTES_MAX) {
        bytes_add_text(trace, "\xe2\x80\xa6");
        bytes_add_decimal(trace, value.size);
    }
}
