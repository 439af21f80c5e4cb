// An interpreter: carries out the hostcalls that its configuration lists for each callback, and logs what each answered.
//
// A request chooses its script with the header `x-script`. The hostcalls are called as the ABI has them, without an SDK
// between: an SDK would stop at a status that it does not expect. The host gets memory from `malloc`.

#include "abi.h"
#include "answer.h"
#include "operations.h"
#include "scripts.h"
#include "streams.h"
#include "text.h"

#define EXPORT(name) __attribute__((export_name(#name))) name

enum { NUMBERS_MAX = 3 };

// What the trace shows of a callback's parameters.
struct shown {
    size_t count;
    uint32_t numbers[NUMBERS_MAX];
};

static struct scripts scripts;

static void add_callback(struct bytes *trace, enum callback callback, const struct shown *shown)
{
    bytes_add_byte(trace, ' ');
    bytes_add_text(trace, callback_name(callback));
    for (size_t i = 0; i < shown->count; i++) {
        bytes_add_byte(trace, i == 0 ? '(' : ',');
        bytes_add_decimal(trace, shown->numbers[i]);
    }
    if (shown->count > 0) {
        bytes_add_byte(trace, ')');
    }
}

// Carries out what a stream's script has for this call of a callback.
static void run_steps(struct turn *turn, enum callback callback, bool is_end)
{
    struct stream *stream = stream_find(turn->context);
    if (stream == NULL) {
        return;
    }
    uint32_t nth = ++stream->calls[callback];
    // A copy, because the stream may move while a hostcall runs. The scripts stay where they are.
    struct bytes script = {0};
    bytes_add(&script, bytes_view(&stream->script));
    for (size_t i = 0; i < scripts.step_count; i++) {
        const struct step *step = &scripts.steps[i];
        if (step_fits(step, bytes_view(&script), callback, nth, is_end)) {
            turn->operation = step->operation;
            turn->arguments = step_arguments(&scripts, step);
            turn->argument_count = step->argument_count;
            operation_run(turn);
        }
    }
    bytes_clear(&script);
}

// Runs what the stream's script has for a callback; the callback's result.
static uint32_t run(uint32_t context, enum callback callback, struct shown shown, bool is_end)
{
    struct turn turn = {.context = context};
    add_callback(&turn.trace, callback, &shown);
    run_steps(&turn, callback, is_end);
    struct stream *stream = stream_find(context);
    if (stream != NULL) {
        bytes_add(&stream->trace, bytes_view(&turn.trace));
    }
    bytes_clear(&turn.trace);
    return turn.result;
}

static struct bytes request_header(const char *name)
{
    struct slice key = slice_of(name);
    struct answer answer = {0};
    answer.status = proxy_get_header_map_value(MAP_REQUEST_HEADERS, key.data, key.size, &answer.data, &answer.size);
    struct bytes value = {0};
    bytes_add_utf8(&value, answer_value(&answer));
    answer_clear(&answer);
    return value;
}

static uint32_t on_body(uint32_t context, enum callback callback, uint32_t size, uint32_t end)
{
    return run(context, callback, (struct shown){2, {size, end}}, end != 0);
}

static uint32_t on_trailers(uint32_t context, enum callback callback, uint32_t count)
{
    return run(context, callback, (struct shown){1, {count}}, true);
}

// The script of the stream that made a call goes on.
static void on_answer(uint32_t token, enum callback callback, struct shown shown)
{
    uint32_t context;
    if (token_find(token, &context)) {
        run(context, callback, shown, true);
    }
}

// Not 0.2.0: Envoy has no proxy_get_log_level in that version, and does not load a module that imports it.
void EXPORT(proxy_abi_version_0_2_1)(void)
{
}

void EXPORT(proxy_on_context_create)(uint32_t context, uint32_t parent)
{
    if (parent != 0) {
        stream_create(context);
    }
}

uint32_t EXPORT(proxy_on_vm_start)(uint32_t context, uint32_t size)
{
    return 1;
}

uint32_t EXPORT(proxy_on_configure)(uint32_t context, uint32_t size)
{
    struct answer answer = {0};
    answer.status = proxy_get_buffer_bytes(BUFFER_PLUGIN_CONFIGURATION, 0, UINT32_MAX, &answer.data, &answer.size);
    scripts_read(&scripts, answer_value(&answer));
    answer_clear(&answer);
    return 1;
}

uint32_t EXPORT(proxy_on_request_headers)(uint32_t context, uint32_t count, uint32_t end)
{
    struct bytes script = request_header("x-script");
    struct bytes case_name = request_header("x-case");
    struct stream *stream = stream_find(context);
    if (stream != NULL) {
        bytes_clear(&stream->script);
        bytes_clear(&stream->case_name);
        stream->script = script;
        stream->case_name = case_name;
    } else {
        bytes_clear(&script);
        bytes_clear(&case_name);
    }
    return run(context, REQUEST_HEADERS, (struct shown){1, {end}}, end != 0);
}

uint32_t EXPORT(proxy_on_request_body)(uint32_t context, uint32_t size, uint32_t end)
{
    return on_body(context, REQUEST_BODY, size, end);
}

uint32_t EXPORT(proxy_on_request_trailers)(uint32_t context, uint32_t count)
{
    return on_trailers(context, REQUEST_TRAILERS, count);
}

uint32_t EXPORT(proxy_on_response_headers)(uint32_t context, uint32_t count, uint32_t end)
{
    return run(context, RESPONSE_HEADERS, (struct shown){1, {end}}, end != 0);
}

uint32_t EXPORT(proxy_on_response_body)(uint32_t context, uint32_t size, uint32_t end)
{
    return on_body(context, RESPONSE_BODY, size, end);
}

uint32_t EXPORT(proxy_on_response_trailers)(uint32_t context, uint32_t count)
{
    return on_trailers(context, RESPONSE_TRAILERS, count);
}

void EXPORT(proxy_on_http_call_response)(uint32_t context, uint32_t token, uint32_t headers, uint32_t body, uint32_t trailers)
{
    // Each host counts the headers in its own way, so only whether there are any.
    on_answer(token, HTTP_CALL_RESPONSE, (struct shown){3, {headers > 0, body, trailers}});
}

void EXPORT(proxy_on_grpc_receive)(uint32_t context, uint32_t token, uint32_t size)
{
    on_answer(token, GRPC_RECEIVE, (struct shown){1, {size}});
}

void EXPORT(proxy_on_grpc_close)(uint32_t context, uint32_t token, uint32_t status)
{
    on_answer(token, GRPC_CLOSE, (struct shown){1, {status}});
}

void EXPORT(proxy_on_log)(uint32_t context)
{
    run(context, LOG, (struct shown){0}, true);
    const struct stream *stream = stream_find(context);
    if (stream == NULL || stream->case_name.size == 0) {
        return;
    }
    struct bytes said = {0};
    bytes_add_text(&said, "trace ");
    bytes_add(&said, bytes_view(&stream->case_name));
    bytes_add_byte(&said, ':');
    bytes_add(&said, bytes_view(&stream->trace));
    proxy_log(LOG_INFO, said.data, said.size);
    bytes_clear(&said);
}

uint32_t EXPORT(proxy_on_done)(uint32_t context)
{
    return 1;
}

void EXPORT(proxy_on_delete)(uint32_t context)
{
    stream_delete(context);
}
