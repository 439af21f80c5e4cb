// Operations that are not about a stream's messages: properties, log, time, and calls by name.

#include "abi.h"
#include "operations.h"
#include "raw.h"
#include "text.h"
#include "trace.h"

static void say_truth(struct turn *turn, bool truth)
{
    bytes_add_text(&turn->trace, truth ? ":true" : ":false");
}

// `a.b` as the ABI's path, with zeros between.
static struct answer property(const struct turn *turn)
{
    struct bytes path = {0};
    bytes_add(&path, argument(turn, 0));
    for (size_t i = 0; i < path.size; i++) {
        if (path.data[i] == '.') {
            path.data[i] = 0;
        }
    }
    struct slice view = bytes_view(&path);
    struct answer answer = {0};
    answer.status = proxy_get_property(view.data, view.size, &answer.data, &answer.size);
    bytes_clear(&path);
    return answer;
}

static void get_property(struct turn *turn)
{
    struct answer answer = property(turn);
    say_answer(turn, &answer);
    answer_clear(&answer);
}

// Only whether it is there: the value differs from run to run.
static void has_property(struct turn *turn)
{
    struct answer answer = property(turn);
    say(turn, answer.status);
    say_truth(turn, answer_value(&answer).size > 0);
    answer_clear(&answer);
}

static void set_property(struct turn *turn)
{
    struct slice path = argument(turn, 0);
    struct slice value = argument(turn, 1);
    say(turn, proxy_set_property(path.data, path.size, value.data, value.size));
}

static void log_message(struct turn *turn)
{
    struct slice message = argument(turn, 1);
    say(turn, proxy_log(number(turn, 0), message.data, message.size));
}

static void get_log_level(struct turn *turn)
{
    uint32_t level = 0;
    say(turn, proxy_get_log_level(&level));
}

static void get_time(struct turn *turn)
{
    // Some moment of 2020, which is over everywhere.
    static const uint64_t past = 1600000000000000000;
    uint64_t time = 0;
    say(turn, proxy_get_current_time_nanoseconds(&time));
    say_truth(turn, time > past);
}

static void set_tick(struct turn *turn)
{
    say(turn, proxy_set_tick_period_milliseconds(number(turn, 0)));
}

static void set_effective_context(struct turn *turn)
{
    say(turn, proxy_set_effective_context(number(turn, 0)));
}

static void done(struct turn *turn)
{
    say(turn, proxy_done());
}

static void get_status(struct turn *turn)
{
    uint32_t code = 0;
    struct answer answer = {0};
    answer.status = proxy_get_status(&code, &answer.data, &answer.size);
    say_answer(turn, &answer);
    answer_clear(&answer);
    bytes_add_byte(&turn->trace, '/');
    bytes_add_decimal(&turn->trace, code);
}

static void foreign(struct turn *turn)
{
    struct slice name = argument(turn, 0);
    struct slice parameter = argument(turn, 1);
    struct answer answer = {0};
    answer.status = proxy_call_foreign_function(name.data, name.size, parameter.data, parameter.size, &answer.data,
                                                &answer.size);
    struct bytes shown = {0};
    bytes_add_text(&shown, "foreign.");
    bytes_add_utf8(&shown, name);
    trace_add_status(&turn->trace, bytes_view(&shown), answer.status);
    say_value(turn, &answer);
    bytes_clear(&shown);
    answer_clear(&answer);
}

// Numbers for everything, pointers included.
static void raw(struct turn *turn)
{
    struct slice name = argument(turn, 0);
    uint64_t numbers[RAW_PARAMETERS_MAX] = {0};
    size_t count = 0;
    while (count < RAW_PARAMETERS_MAX && count + 1 < turn->argument_count) {
        numbers[count] = text_to_signed(argument(turn, count + 1));
        count++;
    }
    uint32_t status;
    if (raw_call(name, numbers, count, &status)) {
        trace_add_status(&turn->trace, name, status);
    } else {
        bytes_add_text(&turn->trace, " no-such-function:");
        bytes_add_utf8(&turn->trace, name);
    }
}

const struct operation general_operations[] = {
    {"property", get_property},
    {"has_property", has_property},
    {"set_property", set_property},
    {"say", log_message},
    {"level", get_log_level},
    {"time", get_time},
    {"tick", set_tick},
    {"effective", set_effective_context},
    {"done", done},
    {"status", get_status},
    {"foreign", foreign},
    {"raw", raw},
    {0},
};
