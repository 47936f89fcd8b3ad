/* A closed-loop load: each connection sends a request, reads its whole answer, and sends the next.

   load PORT CONNECTIONS WARM_MS WINDOW_MS STAGGER_MS EVENTS PIDS FILE

   FILE holds one whole HTTP request. EVENTS is how many each answer must have; 0 for JSON. Connection i starts at
   STAGGER_MS * i / CONNECTIONS. PIDS, with commas or "-", are the processes whose CPU time is read where the window
   begins and ends. After the window, what is under way is finished, so that an answer cut short is found. What
   completes within the window is told as one line of JSON, in microseconds; any error counts, whenever it happens. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { DRAIN_MS = 15000, HEAD_BYTES = 8192, DIGITS = 19 };
typedef enum { HEAD, LENGTH, SIZE, DATA, DATA_END, TRAILER, DONE } Part;

typedef struct {
    int fd, used, status, events, digits; /* digits: how far into a mark; -1 outside */
    Part part;
    long left, stamp_ns, sent_ns, start_ns;
    char head[HEAD_BYTES + 1];
} Connection;

typedef struct {
    long *values, count, room;
} Samples;

static Samples whole, event, first;
static long cut_off, miscounted, bad_status, window_from_ns, window_to_ns, total_events, wanted_events;
static char request[65536];
static int request_bytes, port;

static long now_ns(clockid_t clock) {
    struct timespec at;
    return clock_gettime(clock, &at) ? 0 : at.tv_sec * 1000000000L + at.tv_nsec;
}

static void add(Samples *to, long value, long at) {
    if (at < window_from_ns || at >= window_to_ns) return;
    if (to->count == to->room) to->values = realloc(to->values, (to->room = to->room * 2 + 4096) * sizeof(long));
    to->values[to->count++] = value;
}

static int by_value(const void *a, const void *b) {
    long left = *(const long *)a, right = *(const long *)b;
    return (left > right) - (left < right);
}

static void tell(const char *name, Samples *of) {
    qsort(of->values, of->count, sizeof(long), by_value);
    if (!of->count) return;
    printf("\"%s_p50_us\":%.1f,\"%s_p99_us\":%.1f,", name, of->values[(of->count - 1) / 2] / 1e3, name,
           of->values[(long)((of->count - 1) * 0.99)] / 1e3);
}

/* CPU time of whole processes, their threads included: the clock that clock_getcpuclockid(3) names. */
static long cpu_ns(const char *pids) {
    long sum = 0;
    for (const char *at = pids; *at && *at != '-'; at += strcspn(at, ","), at += *at == ',')
        sum += now_ns((clockid_t)(~(unsigned)atoi(at) << 3 | 2));
    return sum;
}

static int dial(Connection *with, int poll) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    with->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(with->fd, (void *)&address, sizeof address)) return perror("load: connect"), 0;
    setsockopt(with->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return !epoll_ctl(poll, EPOLL_CTL_ADD, with->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = with});
}

static void send_request(Connection *on) {
    on->part = HEAD;
    on->used = on->events = 0;
    on->digits = -1;
    on->sent_ns = now_ns(CLOCK_MONOTONIC);
    if (write(on->fd, request, request_bytes) != request_bytes) cut_off++;
}

/* Marks are found byte by byte, since a proxy may cut an answer anywhere. */
static void body(Connection *of, const char *data, long size, long now) {
    for (long i = 0; i < size; i++) {
        if (data[i] == '@') {
            of->digits = of->stamp_ns = 0;
        } else if (of->digits >= 0) {
            of->stamp_ns = of->stamp_ns * 10 + data[i] - '0';
            if (++of->digits < DIGITS) continue;
            of->digits = -1;
            add(&event, now - of->stamp_ns, now);
            if (!of->events++) add(&first, now - of->sent_ns, now);
        }
    }
}

static void head_ended(Connection *of) {
    const char *length = strcasestr(of->head, "\r\ncontent-length:");
    of->status = atoi(of->head + 9);
    of->left = length ? atol(length + 17) : 0;
    of->part = length ? (of->left ? LENGTH : DONE) : SIZE;
    of->used = 0;
}

/* One byte of what is not body: the head, a chunk's size, the line ends. */
static void mark_up(Connection *of, char byte) {
    of->head[of->used++] = byte;
    of->head[of->used] = 0;
    if (byte != '\n' && of->used < HEAD_BYTES) return;
    if (of->part == HEAD) {
        if (of->used >= 4 && !memcmp(of->head + of->used - 4, "\r\n\r\n", 4)) head_ended(of);
        else if (of->used == HEAD_BYTES) cut_off++, of->part = DONE;
        return;
    }
    if (of->part == SIZE) of->left = strtol(of->head, NULL, 16), of->part = of->left ? DATA : TRAILER;
    else if (of->part == DATA_END) of->part = SIZE;
    else if (of->used == 2) of->part = DONE;
    of->used = 0;
}

static void take(Connection *of, const char *data, long size, long now) {
    while (size && of->part != DONE) {
        if (of->part != LENGTH && of->part != DATA) {
            mark_up(of, *data++), size--;
            continue;
        }
        long bytes = size < of->left ? size : of->left;
        body(of, data, bytes, now);
        data += bytes, size -= bytes, of->left -= bytes;
        if (!of->left) of->part = of->part == DATA ? DATA_END : DONE;
    }
}

/* True once the answer is whole. A connection that is closed before counts as an error, and is no longer used. */
static int receive(Connection *on) {
    static char buffer[262144];
    long size = read(on->fd, buffer, sizeof buffer), now = now_ns(CLOCK_MONOTONIC);
    if (size <= 0) {
        cut_off++;
        close(on->fd);
        on->fd = -1;
        return 0;
    }
    take(on, buffer, size, now);
    if (on->part != DONE) return 0;
    add(&whole, now - on->sent_ns, now);
    total_events += on->events;
    if (on->status < 200 || on->status > 299) bad_status++;
    else if (on->events != wanted_events) miscounted++;
    return 1;
}

int main(int count, char **argument) {
    if (count != 9) return fprintf(stderr, "load: 8 arguments, see its source\n"), 2;
    int size = atoi(argument[2]), busy = 0, waiting = size, poll = epoll_create1(0);
    long begun = now_ns(CLOCK_MONOTONIC), stagger_ns = atol(argument[5]) * 1000000, cpu_from = -1, cpu_to = -1;
    FILE *file = fopen(argument[8], "r");
    port = atoi(argument[1]), wanted_events = atol(argument[6]);
    request_bytes = file ? fread(request, 1, sizeof request, file) : 0;
    window_from_ns = begun + atol(argument[3]) * 1000000, window_to_ns = window_from_ns + atol(argument[4]) * 1000000;
    Connection *all = calloc(size, sizeof *all);
    for (int i = 0; i < size; i++) {
        all[i].start_ns = begun + stagger_ns / size * i;
        if (!dial(&all[i], poll)) return 1;
    }
    while (waiting || busy || cpu_to < 0) {
        long now = now_ns(CLOCK_MONOTONIC);
        if (cpu_from < 0 && now >= window_from_ns) cpu_from = cpu_ns(argument[7]);
        if (cpu_to < 0 && now >= window_to_ns) cpu_to = cpu_ns(argument[7]), waiting = 0;
        if (now > window_to_ns + DRAIN_MS * 1000000L) break;
        for (; waiting && now >= all[size - waiting].start_ns; waiting--, busy++) send_request(&all[size - waiting]);
        struct epoll_event ready[256];
        int found = epoll_wait(poll, ready, 256, 1);
        for (int i = 0; i < found; i++) {
            Connection *on = ready[i].data.ptr;
            if (receive(on) && now < window_to_ns) send_request(on);
            else if (on->fd < 0 || on->part == DONE) busy--;
        }
    }
    printf("{\"requests\":%ld,\"events\":%ld,\"cut_off\":%ld,\"miscounted\":%ld,\"bad_status\":%ld,\"unfinished\":%d,\"events_in_all\":%ld,",
           whole.count, event.count, cut_off, miscounted, bad_status, busy, total_events);
    tell("whole", &whole), tell("event", &event), tell("first", &first);
    printf("\"cpu_us\":%.1f,\"window_s\":%.6f}\n", (cpu_to - cpu_from) / 1e3, (window_to_ns - window_from_ns) / 1e9);
    return 0;
}
