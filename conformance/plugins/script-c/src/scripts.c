#include "scripts.h"

#include <stdlib.h>

#include "text.h"

static struct bytes without_json(struct slice text)
{
    static const char start[] = "\"script\":\"";
    static const size_t start_size = sizeof start - 1;
    struct bytes out = {0};
    size_t at = 0;
    while (!slice_is(slice_part(text, at, start_size), start)) {
        if (at++ >= text.size) {
            bytes_add(&out, text);
            return out;
        }
    }
    for (at += start_size; at < text.size && text.data[at] != '"'; at++) {
        bool is_escape = text.data[at] == '\\';
        if (is_escape && ++at == text.size) {
            break;
        }
        bytes_add_byte(&out, is_escape && text.data[at] == 'n' ? '\n' : text.data[at]);
    }
    return out;
}

static uint8_t decoded_byte(struct slice digits)
{
    uint64_t byte;
    return text_to_unsigned(digits, 16, UINT8_MAX, &byte) ? (uint8_t)byte : '?';
}

// Decodes an argument into `out`, which has room for it.
static struct slice decoded(struct slice word, struct bytes *out)
{
    if (slice_is(word, "-")) {
        return slice_of("");
    }
    size_t start = out->size;
    for (size_t at = 0; at < word.size; at++) {
        if (word.data[at] != '%') {
            bytes_add_byte(out, word.data[at]);
            continue;
        }
        size_t left = word.size - at - 1;
        size_t digits = left < 2 ? left : 2;
        bytes_add_byte(out, decoded_byte(slice_part(word, at + 1, digits)));
        at += digits;
    }
    return slice_part(bytes_view(out), start, out->size - start);
}

// `CALLBACK`, `CALLBACK@N` or `CALLBACK@end`. An N that is no number stands for every call.
static void read_callback(struct step *step, struct slice word)
{
    size_t at = slice_find(word, '@');
    struct slice which = slice_from(word, at + 1);
    step->callback = callback_named(slice_part(word, 0, at));
    if (slice_is(which, "end")) {
        step->which = LAST_CALL;
    } else if (text_to_unsigned(which, 10, UINT32_MAX, &step->nth)) {
        step->which = NTH_CALL;
    }
}

static void add_argument(struct scripts *scripts, struct slice argument)
{
    scripts->arguments =
        grown(scripts->arguments, &scripts->argument_capacity, scripts->argument_count + 1, sizeof *scripts->arguments);
    scripts->arguments[scripts->argument_count++] = argument;
}

static void add_step(struct scripts *scripts, struct slice script, struct slice first, struct slice rest)
{
    struct step step = {.script = script, .operation = next_word(&rest), .first_argument = scripts->argument_count};
    read_callback(&step, first);
    for (struct slice word; (word = next_word(&rest)).size > 0; step.argument_count++) {
        add_argument(scripts, decoded(word, &scripts->decoded));
    }
    scripts->steps = grown(scripts->steps, &scripts->step_capacity, scripts->step_count + 1, sizeof *scripts->steps);
    scripts->steps[scripts->step_count++] = step;
}

static void scripts_clear(struct scripts *scripts)
{
    free(scripts->steps);
    free(scripts->arguments);
    bytes_clear(&scripts->text);
    bytes_clear(&scripts->decoded);
    *scripts = (struct scripts){0};
}

void scripts_read(struct scripts *scripts, struct slice configuration)
{
    scripts_clear(scripts);
    struct bytes valid = {0};
    bytes_add_utf8(&valid, configuration);
    scripts->text = without_json(bytes_view(&valid));
    bytes_clear(&valid);
    // Decoding makes nothing longer: what slices point into never moves.
    bytes_reserve(&scripts->decoded, scripts->text.size);
    struct slice rest = bytes_view(&scripts->text);
    struct slice current = slice_of("");
    for (struct slice line; slice_split(&rest, '\n', &line);) {
        struct slice first = next_word(&line);
        if (slice_is(first, "script")) {
            current = next_word(&line);
        } else if (first.size > 0) {
            add_step(scripts, current, first, line);
        }
    }
}

const struct slice *step_arguments(const struct scripts *scripts, const struct step *step)
{
    return step->argument_count == 0 ? NULL : &scripts->arguments[step->first_argument];
}

bool step_fits(const struct step *step, struct slice script, enum callback callback, uint64_t nth, bool is_end)
{
    if (step->callback != callback || !slices_equal(step->script, script)) {
        return false;
    }
    return step->which == EVERY_CALL || (step->which == NTH_CALL && step->nth == nth) ||
           (step->which == LAST_CALL && is_end);
}
