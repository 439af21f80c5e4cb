// Operations on what streams share: data, queues, metrics.

#include "abi.h"
#include "operations.h"

// Says what a hostcall has answered that gives a number, for `$`.
static void say_number(struct turn *turn, uint32_t status, uint32_t given)
{
    turn->last = given;
    say(turn, status);
}

static void shared_set(struct turn *turn)
{
    struct slice key = argument(turn, 0);
    struct slice value = argument(turn, 1);
    say(turn, proxy_set_shared_data(key.data, key.size, value.data, value.size, number(turn, 2)));
}

static void shared_get(struct turn *turn)
{
    struct slice key = argument(turn, 0);
    uint32_t cas = 0;
    struct answer answer = {0};
    answer.status = proxy_get_shared_data(key.data, key.size, &answer.data, &answer.size, &cas);
    turn->last = cas;
    say_answer(turn, &answer);
    answer_clear(&answer);
}

static void queue_register(struct turn *turn)
{
    struct slice name = argument(turn, 0);
    uint32_t queue = 0;
    uint32_t status = proxy_register_shared_queue(name.data, name.size, &queue);
    say_number(turn, status, queue);
}

static void queue_resolve(struct turn *turn)
{
    struct slice vm = argument(turn, 0);
    struct slice name = argument(turn, 1);
    uint32_t queue = 0;
    uint32_t status = proxy_resolve_shared_queue(vm.data, vm.size, name.data, name.size, &queue);
    say_number(turn, status, queue);
}

static void enqueue(struct turn *turn)
{
    struct slice item = argument(turn, 1);
    say(turn, proxy_enqueue_shared_queue(number(turn, 0), item.data, item.size));
}

static void dequeue(struct turn *turn)
{
    struct answer answer = {0};
    answer.status = proxy_dequeue_shared_queue(number(turn, 0), &answer.data, &answer.size);
    say_answer(turn, &answer);
    answer_clear(&answer);
}

static void metric_define(struct turn *turn)
{
    struct slice name = argument(turn, 1);
    uint32_t metric = 0;
    uint32_t status = proxy_define_metric(number(turn, 0), name.data, name.size, &metric);
    say_number(turn, status, metric);
}

static void metric_increment(struct turn *turn)
{
    int64_t offset = (int32_t)number(turn, 1);
    say(turn, proxy_increment_metric(number(turn, 0), (uint64_t)offset));
}

static void metric_record(struct turn *turn)
{
    say(turn, proxy_record_metric(number(turn, 0), number(turn, 1)));
}

static void metric_get(struct turn *turn)
{
    uint64_t value = 0;
    uint32_t status = proxy_get_metric(number(turn, 0), &value);
    say(turn, status);
    if (status != 0) {
        return;
    }
    // A gauge may be below zero.
    bool is_negative = value > INT64_MAX;
    bytes_add_text(&turn->trace, is_negative ? ":-" : ":");
    bytes_add_decimal(&turn->trace, is_negative ? -value : value);
}

const struct operation shared_operations[] = {
    {"shared_set", shared_set},
    {"shared_get", shared_get},
    {"queue_register", queue_register},
    {"queue_resolve", queue_resolve},
    {"enqueue", enqueue},
    {"dequeue", dequeue},
    {"metric_define", metric_define},
    {"metric_increment", metric_increment},
    {"metric_record", metric_record},
    {"metric_get", metric_get},
    {0},
};
