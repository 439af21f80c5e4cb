#include "operations.h"

static const struct operation *const tables[] = {
    http_operations,
    call_operations,
    shared_operations,
    general_operations,
};

void operation_run(struct turn *turn)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        for (const struct operation *operation = tables[i]; operation->name != NULL; operation++) {
            if (slice_is(turn->operation, operation->name)) {
                operation->run(turn);
                return;
            }
        }
    }
    bytes_add_text(&turn->trace, " no-such-operation:");
    bytes_add(&turn->trace, turn->operation);
}
