// Load at a constant rate. The latency of a request counts from the moment at which it was due, so
// that a server that stops answering cannot hide how many requests it let wait (no coordinated
// omission). With a rate of 0 the loop is closed: each connection sends as soon as it was answered.
//
// One thread, without allocation while it sends: it must not be the bottleneck.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	ok          = 200
	unavailable = 503
	broken      = 0 // no response: the connection was closed, or the timeout was over

	// Requests that are sent before the responses that have arrived are read.
	burst = 64
	// How often outstanding requests are compared with the timeout.
	expiryInterval = 50 * time.Millisecond
	// Between two connections that are opened: a listener's queue may hold only a hundred.
	openingPause = 100 * time.Microsecond
)

type connection struct {
	fd     int
	busy   bool
	due    time.Duration
	buffer [8192]byte
	filled int
}

// Result is what is printed, as JSON. Latencies are in microseconds, those of good responses.
type Result struct {
	Seconds     float64 `json:"seconds"`
	Answers     int     `json:"answers"` // all of them, also during the warm-up
	Sent        int     `json:"sent"`
	Good        int     `json:"good"`        // responses with the expected status, within the timeout
	Unavailable int     `json:"unavailable"` // responses with 503
	Other       int     `json:"other"`       // responses with any other status
	Broken      int     `json:"broken"`      // no response within the timeout, or a closed connection
	Unsent      int     `json:"unsent"`      // due while all connections had a request outstanding
	Missed      int     `json:"missed"`      // due, but this program was not fast enough
	P50         int     `json:"p50"`
	P99         int     `json:"p99"`
	P999        int     `json:"p999"`
	Max         int     `json:"max"`
	Late        int     `json:"late"` // p99.9 of the time from due until sent
}

type load struct {
	port        int
	expected    int
	interval    time.Duration // 0: closed loop
	warmUp, end time.Duration
	timeout     time.Duration
	requests    [][]byte
	random      *rand.Rand
	started     time.Time
	epoll       int
	connections []connection
	idle        []int
	latencies   []int
	delays      []int // from due until sent
	result      Result
}

func main() {
	port := flag.Int("port", 0, "port of 127.0.0.1")
	requests := flag.String("requests", "", "file of complete requests, separated by NUL; sent in random order")
	rate := flag.Float64("rate", 0, "requests a second; 0: as many as are answered")
	connections := flag.Int("connections", 32, "connections, with one request outstanding on each")
	seconds := flag.Float64("seconds", 1, "measured time")
	warmUp := flag.Float64("warm-up", 0, "seconds of the same load before it, which are not counted")
	timeout := flag.Float64("timeout", 1, "seconds after which a request has failed")
	expected := flag.Int("status", ok, "status of a good response")
	flag.Parse()

	runtime.LockOSThread()
	content := try(os.ReadFile(*requests))
	l := &load{
		port: *port, expected: *expected, requests: bytes.Split(content, []byte{0}),
		warmUp: duration(*warmUp), end: duration(*warmUp + *seconds), timeout: duration(*timeout),
		random: rand.New(rand.NewSource(1)), connections: make([]connection, *connections),
	}
	most := int(max(*rate, 200_000)**seconds) + 1
	l.latencies, l.delays = make([]int, 0, most), make([]int, 0, most)
	if *rate > 0 {
		l.interval = duration(1 / *rate)
	}
	l.result.Seconds = *seconds
	l.epoll = try(syscall.EpollCreate1(0))
	for index := range l.connections {
		l.connections[index].fd = l.open(index)
		l.idle = append(l.idle, index)
		time.Sleep(openingPause)
	}
	runtime.GC()
	debug.SetGCPercent(-1)
	l.run()
	l.summarize()
	fmt.Println(string(try(json.Marshal(l.result))))
}

func (l *load) run() {
	l.started = time.Now()
	events := make([]syscall.EpollEvent, 256)
	next, expiry := time.Duration(0), expiryInterval
	for {
		now := l.now()
		if l.interval == 0 {
			for len(l.idle) > 0 && now < l.end {
				l.send(now)
			}
		} else {
			for sent := 0; next <= now && next < l.end && sent < burst; next += l.interval {
				if now-next > l.timeout {
					l.count(next, &l.result.Missed)
				} else if l.send(next) {
					sent++
				}
			}
		}
		if now >= expiry {
			l.expire(now)
			expiry = now + expiryInterval
		}
		if now >= l.end && len(l.idle) == len(l.connections) {
			return
		}
		wakeUp := expiry
		if l.interval > 0 && next < l.end {
			wakeUp = min(next, expiry)
		}
		l.wait(wakeUp)
		count, err := syscall.EpollWait(l.epoll, events, 0)
		if err != nil && err != syscall.EINTR {
			fail(err)
		}
		for _, event := range events[:max(count, 0)] {
			l.receive(int(event.Fd))
		}
	}
}

func (l *load) now() time.Duration { return time.Since(l.started) }

// wait returns when a connection is readable, or at the given time. epoll_wait has milliseconds only.
func (l *load) wait(until time.Duration) {
	left := until - l.now()
	if left <= 0 {
		return
	}
	poll := struct {
		fd              int32
		events, revents int16
	}{int32(l.epoll), 1, 0}
	timeout := syscall.NsecToTimespec(int64(left))
	syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1,
		uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
}

// send sends a request on the connection that was idle for the shortest time.
func (l *load) send(due time.Duration) bool {
	if len(l.idle) == 0 {
		l.count(due, &l.result.Unsent)
		return false
	}
	index := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	c := &l.connections[index]
	c.busy, c.due, c.filled = true, due, 0
	l.count(due, &l.result.Sent)
	if due >= l.warmUp {
		l.delays = append(l.delays, int((l.now() - due).Microseconds()))
	}
	request := l.requests[l.random.Intn(len(l.requests))]
	if written, err := syscall.Write(c.fd, request); err != nil || written != len(request) {
		l.finish(index, broken)
	}
	return true
}

func (l *load) receive(index int) {
	c := &l.connections[index]
	count, err := syscall.Read(c.fd, c.buffer[c.filled:])
	if err == syscall.EAGAIN {
		return
	}
	if err != nil || count <= 0 || !c.busy {
		l.finish(index, broken)
		return
	}
	c.filled += count
	if status, complete := parse(c.buffer[:c.filled]); complete {
		l.finish(index, status)
	} else if c.filled == len(c.buffer) {
		l.finish(index, broken)
	}
}

// parse returns the status of a response, and whether the response is complete.
func parse(response []byte) (int, bool) {
	head := bytes.Index(response, []byte("\r\n\r\n"))
	if head < 12 {
		return broken, false
	}
	status, err := strconv.Atoi(string(response[9:12]))
	if err != nil {
		return broken, true
	}
	return status, len(response) >= head+4+contentLength(response[:head+2])
}

var lengthFields = [][]byte{[]byte("\r\nContent-Length: "), []byte("\r\ncontent-length: ")}

func contentLength(head []byte) int {
	for _, field := range lengthFields {
		if at := bytes.Index(head, field); at >= 0 {
			digits := head[at+len(field):]
			length, _ := strconv.Atoi(string(digits[:bytes.IndexByte(digits, '\r')]))
			return length
		}
	}
	return 0
}

// finish ends the request of a connection. One without a response gets a new connection.
func (l *load) finish(index, status int) {
	c := &l.connections[index]
	latency := l.now() - c.due
	if c.busy {
		l.judge(c, status, latency)
		c.busy = false
		l.idle = append(l.idle, index)
	}
	if status == broken {
		l.reconnect(index)
	}
}

func (l *load) judge(c *connection, status int, latency time.Duration) {
	if status != broken {
		l.result.Answers++
	}
	switch {
	case status == broken || latency > l.timeout:
		l.count(c.due, &l.result.Broken)
	case status == l.expected:
		l.count(c.due, &l.result.Good)
		if c.due >= l.warmUp {
			l.latencies = append(l.latencies, int(latency.Microseconds()))
		}
	case status == unavailable:
		l.count(c.due, &l.result.Unavailable)
	default:
		l.count(c.due, &l.result.Other)
	}
}

// count counts a request that was due in the measured time.
func (l *load) count(due time.Duration, counter *int) {
	if due >= l.warmUp {
		*counter++
	}
}

func (l *load) expire(now time.Duration) {
	for index := range l.connections {
		if c := &l.connections[index]; c.busy && now-c.due > l.timeout {
			l.finish(index, broken)
		}
	}
}

func (l *load) reconnect(index int) {
	syscall.Close(l.connections[index].fd)
	l.connections[index].fd = l.open(index)
}

func (l *load) open(index int) int {
	fd := try(syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0))
	address := &syscall.SockaddrInet4{Port: l.port, Addr: [4]byte{127, 0, 0, 1}}
	check(syscall.Connect(fd, address))
	check(syscall.SetNonblock(fd, true))
	check(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1))
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(index)}
	check(syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &event))
	return fd
}

func (l *load) summarize() {
	sort.Ints(l.latencies)
	sort.Ints(l.delays)
	r := &l.result
	r.P50, r.P99 = percentile(l.latencies, 0.5), percentile(l.latencies, 0.99)
	r.P999, r.Max = percentile(l.latencies, 0.999), percentile(l.latencies, 1)
	r.Late = percentile(l.delays, 0.999)
}

// percentile returns the smallest value that at least this share of all do not exceed.
func percentile(sorted []int, share float64) int {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)]
}

// ordered, min and max: until Go 1.21 they are not built in.
type ordered interface{ ~int | ~int64 | ~float64 }

func min[T ordered](a, b T) T {
	if a < b {
		return a
	}
	return b
}

func max[T ordered](a, b T) T {
	if a > b {
		return a
	}
	return b
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func try[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
