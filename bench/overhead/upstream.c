/* A stub of an OpenAI server, far faster than any proxy: one thread, epoll, one write an answer or a streamed event.

   upstream               prints its port; SIGTERM ends it
   GET  /stub/N/US        from now on a stream has N events, one every US microseconds (0: as fast as it can)
   GET  /stub             what it has served: requests, events, otlp (exports taken)
   GET  /simulator/energy the counter that `paceline serve --meter simulated` reads; 300 W, a step every 100 ms
   POST /v1/traces, /v1/metrics    taken, as an OTLP collector does
   POST anything else     a chat completion: JSON of 301 bytes, or server-sent events if the body says "stream"

   The events of all streams leave at the same instants, as the tokens of a decode step do; the first of each at once.
   Each event carries the nanosecond of its write (CLOCK_MONOTONIC) as @ and 19 digits, for load.c to read. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 32768, REQUEST_BYTES = 1 << 20 };

typedef struct {
    int used, left;   /* bytes in `request`; events still to send */
    char *request;
} Connection;

static Connection connections[CONNECTIONS];
static int streaming[CONNECTIONS], streams, events_a_stream = 64, timer;
static long gap_us, requests, events, exports;

static const char *ANSWER =
    "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"stub\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A paceline is a row of riders, close by"
    " one\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":12,\"total_tokens\":36}}";

static long now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000L + at.tv_nsec;
}

static void drop(int fd) {
    for (int i = 0; i < streams; i++)
        if (streaming[i] == fd) streaming[i--] = streaming[--streams];
    connections[fd].used = connections[fd].left = 0;
    close(fd);
}

/* A write that does not fit the socket's buffer never happens at these sizes; if it does, the client sees a broken answer. */
static int put(int fd, const char *data, int size) {
    if (write(fd, data, size) == size) return 1;
    drop(fd);
    return 0;
}

static void answer(int fd, const char *status, const char *type, const char *body) {
    char text[1024];
    int size = snprintf(text, sizeof text, "HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n%s", status, type,
                        strlen(body), body);
    put(fd, text, size);
}

/* One event, a chunk and a write of its own; the last brings the usage and [DONE] along. False once the stream is over. */
static int send_event(int fd) {
    char data[512], chunk[600];
    int last = connections[fd].left == 1;
    int size = snprintf(data, sizeof data,
        "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"
        "\"model\":\"stub\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@%019ld\"},\"finish_reason\":%s}]%s}\n\n%s",
        now_ns(), last ? "\"stop\"" : "null",
        last ? ",\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":64,\"total_tokens\":88}" : "",
        last ? "data: [DONE]\n\n" : "");
    int bytes = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n%s", size, data, last ? "0\r\n\r\n" : "");
    connections[fd].left--;
    events++;
    return put(fd, chunk, bytes) && !last;
}

static void stream(int fd) {
    static const char *HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                              "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    if (!put(fd, HEAD, strlen(HEAD))) return;
    connections[fd].left = events_a_stream;
    int more = send_event(fd);
    while (more && !gap_us) more = send_event(fd);
    if (more) streaming[streams++] = fd;
}

static void step(void) {
    for (int i = streams - 1; i >= 0; i--) {
        int fd = streaming[i];
        if (!send_event(fd) && i < streams && streaming[i] == fd) streaming[i] = streaming[--streams];
    }
}

static void set(const char *path) {
    sscanf(path, "/stub/%d/%ld", &events_a_stream, &gap_us);
    struct itimerspec every = {{gap_us / 1000000, gap_us % 1000000 * 1000}, {gap_us / 1000000, gap_us % 1000000 * 1000}};
    timerfd_settime(timer, 0, &every, NULL);
}

static void get(int fd, const char *path) {
    char text[128];
    if (!strncmp(path, "/simulator/energy", 17)) {
        snprintf(text, sizeof text, "{\"energy_mj\":%ld}", now_ns() / 100000000 * 30000);
    } else if (!strncmp(path, "/stub", 5)) {
        if (path[5] == '/') set(path);
        snprintf(text, sizeof text, "{\"requests\":%ld,\"events\":%ld,\"otlp\":%ld}", requests, events, exports);
    } else if (!strncmp(path, "/health", 7)) {
        snprintf(text, sizeof text, "{\"status\":\"ok\"}");
    } else if (!strncmp(path, "/v1/models", 10)) {
        snprintf(text, sizeof text, "{\"object\":\"list\",\"data\":[{\"id\":\"stub\",\"object\":\"model\"}]}");
    } else {
        answer(fd, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
        return;
    }
    answer(fd, "200 OK", "application/json", text);
}

static void serve(int fd, const char *method, const char *path, const char *body) {
    if (!strncmp(method, "GET", 3)) {
        get(fd, path);
    } else if (!strncmp(path, "/v1/traces", 10) || !strncmp(path, "/v1/metrics", 11)) {
        exports++;
        answer(fd, "200 OK", "application/x-protobuf", "");
    } else {
        requests++;
        const char *asked = strstr(body, "\"stream\"");
        if (asked && !strncmp(asked + 8 + strspn(asked + 8, " :"), "true", 4)) stream(fd);
        else answer(fd, "200 OK", "application/json", ANSWER);
    }
}

/* Whole requests only, with a content-length or no body; what is chunked or too large is dropped, which is an error. */
static void receive(int fd) {
    Connection *at = &connections[fd];
    if (!at->request) at->request = malloc(REQUEST_BYTES + 1);
    int got = read(fd, at->request + at->used, REQUEST_BYTES - at->used);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    at->used += got;
    at->request[at->used] = 0;
    char *end = strstr(at->request, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(at->request, "\r\ncontent-length:");
    int body = length && length < end ? atoi(length + 17) : 0;
    if (end + 4 - at->request + body > at->used) return;
    at->used = 0; /* nobody pipelines */
    serve(fd, at->request, strchr(at->request, ' ') + 1, end + 4);
}

static void greet(int listener, int poll) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
    }
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (bind(listener, (void *)&address, size) || listen(listener, 8192) || getsockname(listener, (void *)&address, &size))
        return perror("upstream"), 1;
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &(struct epoll_event){.events = EPOLLIN, .data.fd = timer});
    for (;;) {
        struct epoll_event ready[256];
        int count = epoll_wait(poll, ready, 256, -1);
        for (int i = 0; i < count; i++) {
            unsigned long ticks;
            if (ready[i].data.fd == listener) greet(listener, poll);
            else if (ready[i].data.fd != timer) receive(ready[i].data.fd);
            else if (read(timer, &ticks, sizeof ticks) > 0) step();
        }
    }
}
