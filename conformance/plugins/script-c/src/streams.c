#include "streams.h"

struct token {
    uint32_t token;
    uint32_t context;
};

static struct stream *streams;
static size_t stream_count;
static size_t stream_capacity;

static struct token *tokens;
static size_t token_count;
static size_t token_capacity;

void stream_create(uint32_t context)
{
    stream_delete(context);
    streams = grown(streams, &stream_capacity, stream_count + 1, sizeof *streams);
    streams[stream_count++] = (struct stream){.context = context};
}

struct stream *stream_find(uint32_t context)
{
    for (size_t i = 0; i < stream_count; i++) {
        if (streams[i].context == context) {
            return &streams[i];
        }
    }
    return NULL;
}

void stream_delete(uint32_t context)
{
    struct stream *stream = stream_find(context);
    if (stream != NULL) {
        bytes_clear(&stream->case_name);
        bytes_clear(&stream->script);
        bytes_clear(&stream->trace);
        *stream = streams[--stream_count];
    }
    size_t kept = 0;
    for (size_t i = 0; i < token_count; i++) {
        if (tokens[i].context != context) {
            tokens[kept++] = tokens[i];
        }
    }
    token_count = kept;
}

static struct token *find_token(uint32_t token)
{
    for (size_t i = 0; i < token_count; i++) {
        if (tokens[i].token == token) {
            return &tokens[i];
        }
    }
    return NULL;
}

void token_add(uint32_t token, uint32_t context)
{
    struct token *known = find_token(token);
    if (known != NULL) {
        known->context = context;
        return;
    }
    tokens = grown(tokens, &token_capacity, token_count + 1, sizeof *tokens);
    tokens[token_count++] = (struct token){token, context};
}

bool token_find(uint32_t token, uint32_t *context)
{
    const struct token *known = find_token(token);
    if (known == NULL) {
        return false;
    }
    *context = known->context;
    return true;
}
