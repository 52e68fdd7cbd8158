/* A modeld client in C: libzmq and plain JSON, no JSON library.
 *
 *     cc -O2 -Wall -Wextra -o predict predict.c -lzmq        (Debian: apt-get install gcc libc6-dev libzmq3-dev)
 *     ./predict tcp://127.0.0.1:5555 alpha 0.01 0.02 nan 1.2
 *
 * Prints "value version generation" and exits 0; 1: the server's error, or a wrong argument; 2: no reply.
 * A server with CURVE: MODELD_SERVER_KEY, MODELD_PUBLIC_KEY and MODELD_SECRET_KEY in the environment, in Z85.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { TIMEOUT_MS = 1000, TRIES = 3, SIZE = 1 << 16 };

/* What stands behind "key": in a JSON object that has the key once; NULL if it isn't there. */
static const char *find(const char *json, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(json, quoted);
    return at ? at + strlen(quoted) + strspn(at + strlen(quoted), " \t\r\n:") : NULL;
}

/* The string behind "key":, without its quotes; good for names and versions, which have no escapes. */
static const char *text(const char *json, const char *key, char *out, size_t size) {
    const char *at = find(json, key);
    snprintf(out, size, "%.*s", at && *at == '"' ? (int)strcspn(at + 1, "\"") : 1, at && *at == '"' ? at + 1 : "?");
    return out;
}

/* One request. The id makes the reply ours: a late one to an older request has another. */
static int build(char *out, size_t size, const char *id, const char *model, char **features, int count) {
    size_t used = (size_t)snprintf(out, size, "{\"id\":\"%s\",\"model_name\":\"%s\",\"features\":[", id, model);
    for (int i = 0; i < count && used < size; i++) {
        char *end;
        double value = strtod(features[i], &end);
        if (*end || end == features[i] || isinf(value)) {
            fprintf(stderr, "%s is no feature value\n", features[i]);
            return -1;
        }
        const char *comma = i ? "," : "";
        used += (size_t)(isnan(value) ? snprintf(out + used, size - used, "%snull", comma)          /* missing */
                                      : snprintf(out + used, size - used, "%s%.17g", comma, value)); /* to the bit */
    }
    if (used < size) used += (size_t)snprintf(out + used, size - used, "]}");
    return used < size ? (int)used : -1;
}

/* Wait for the reply with our id; its length, or -1 after the timeout. */
static int receive(void *socket, const char *id, char *reply, char *its_id) {
    zmq_pollitem_t item = {socket, 0, ZMQ_POLLIN, 0};
    while (zmq_poll(&item, 1, TIMEOUT_MS) > 0) {
        int length = zmq_recv(socket, reply, SIZE - 1, 0);
        if (length < 0 || length >= SIZE) continue;
        reply[length] = 0;
        if (!strcmp(text(reply, "id", its_id, 64), id)) return length;
    }
    return -1;
}

/* Keys from the environment, before connecting; 0 if they are fit or none is asked for. */
static int use_curve(void *socket) {
    static const struct { int option; const char *name; } keys[] = {
        {ZMQ_CURVE_SERVERKEY, "MODELD_SERVER_KEY"},
        {ZMQ_CURVE_PUBLICKEY, "MODELD_PUBLIC_KEY"},
        {ZMQ_CURVE_SECRETKEY, "MODELD_SECRET_KEY"},
    };
    for (size_t i = 0; getenv("MODELD_SERVER_KEY") && i < sizeof keys / sizeof *keys; i++) {
        const char *key = getenv(keys[i].name);
        if (!key || zmq_setsockopt(socket, keys[i].option, key, strlen(key) + 1)) {
            fprintf(stderr, "%s is no key\n", keys[i].name);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    static char request[SIZE], reply[SIZE];
    char id[] = "c-1", its_id[64], version[128], word[128];
    if (argc < 4) {
        fprintf(stderr, "usage: %s ENDPOINT MODEL FEATURE...\n", argv[0]);
        return 1;
    }
    int length = build(request, sizeof request, id, argv[2], argv + 3, argc - 3);
    if (length < 0) return 1;

    int linger = 0, status = 2;
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER); /* not REQ: that one is stuck after a timeout */
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    if (use_curve(socket)) {
        status = 1;
    } else if (zmq_connect(socket, argv[1])) {
        fprintf(stderr, "%s: %s\n", argv[1], zmq_strerror(errno));
        status = 1;
    }
    /* A prediction has no effect, so asking again with the same id is harmless. */
    for (int tries = 0; status == 2 && tries < TRIES; tries++) {
        zmq_send(socket, request, (size_t)length, ZMQ_DONTWAIT);
        if (receive(socket, id, reply, its_id) < 0) continue;
        const char *data = find(reply, "data"), *generation = find(reply, "generation");
        if (data && generation) {
            printf("%.17g %s %ld\n", strtod(data + strcspn(data, "-0123456789"), NULL),
                   text(reply, "model_version", version, sizeof version), strtol(generation, NULL, 10));
            status = 0;
        } else {
            fprintf(stderr, "%s: %s\n", text(reply, "code", word, sizeof word), reply);
            status = 1;
        }
    }
    if (status == 2) fprintf(stderr, "no reply from %s\n", argv[1]);
    zmq_close(socket);
    zmq_ctx_term(context);
    return status;
}
