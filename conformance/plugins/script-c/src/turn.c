#include "turn.h"

#include "text.h"
#include "trace.h"

struct slice argument(const struct turn *turn, size_t index)
{
    return index < turn->argument_count ? turn->arguments[index] : slice_of("");
}

uint32_t number(const struct turn *turn, size_t index)
{
    struct slice text = argument(turn, index);
    if (slice_is(text, "$")) {
        return turn->last;
    }
    return slice_is(text, "self") ? turn->context : (uint32_t)text_to_signed(text);
}

void say(struct turn *turn, uint32_t status)
{
    trace_add_status(&turn->trace, turn->operation, status);
}

void say_answer(struct turn *turn, const struct answer *answer)
{
    say(turn, answer->status);
    say_value(turn, answer);
}

void say_value(struct turn *turn, const struct answer *answer)
{
    struct slice value = answer_value(answer);
    if (value.data != NULL) {
        bytes_add_byte(&turn->trace, ':');
        trace_add_shown(&turn->trace, value);
    }
}
