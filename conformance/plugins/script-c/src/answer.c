#include "answer.h"

#include <stdlib.h>

struct slice answer_value(const struct answer *answer)
{
    // What a hostcall that has failed leaves there means nothing.
    return answer->status == 0 ? (struct slice){answer->data, answer->size} : (struct slice){0};
}

void answer_clear(struct answer *answer)
{
    if (answer->status == 0) {
        free(answer->data);
    }
    *answer = (struct answer){0};
}
