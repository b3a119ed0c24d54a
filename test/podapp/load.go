package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// maxSamples is how many failures a tally keeps the text of.
const maxSamples = 5

func loadCommand(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	rate := flags.Float64("rate", 10, "requests a second")
	length := flags.Duration("for", 0, "how long; 0: until SIGTERM")
	timeout := flags.Duration("timeout", 2*time.Second, "longest time for one request")
	announce := flags.Int("announce", 0, "after how many answered requests to print a first report; 0: none")
	rest, err := parse(flags, args, 1)
	if err != nil {
		return err
	}
	if *rate <= 0 || *rate > 1e6 {
		return fmt.Errorf("rate %g is not between 0 and 1e6: %w", *rate, errUsage)
	}
	if *length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *length)
		defer cancel()
	}
	report := make(chan os.Signal, 1)
	signal.Notify(report, syscall.SIGUSR1)
	defer signal.Stop(report)
	t := newTally(time.Now())
	load{url: rest[0], every: time.Duration(float64(time.Second) / *rate), timeout: *timeout}.run(ctx, t, func() {
		asked := false
		select {
		case <-report:
			asked = true
		default:
		}
		if *announce > 0 && t.answered() >= *announce {
			asked, *announce = true, 0
		}
		if asked {
			_ = json.NewEncoder(out).Encode(t.report(time.Now()))
		}
	})
	return json.NewEncoder(out).Encode(t.report(time.Now()))
}

// A load makes requests at a fixed rate, whether or not earlier ones have been answered: a service that stands still
// cannot slow down the counting of what it misses.
type load struct {
	url     string
	every   time.Duration
	timeout time.Duration
}

// run makes requests until ctx ends, and waits for those under way. It calls each before every request.
func (l load) run(ctx context.Context, t *tally, each func()) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	var requests sync.WaitGroup
	defer requests.Wait()
	for {
		each()
		requests.Go(func() { l.request(t) })
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// request makes one request. It is not cut short by the end of the run: that would count as a failure.
func (l load) request(t *tally) {
	begin := time.Now()
	body, err := fetch(context.Background(), l.url, l.timeout)
	now := time.Now()
	if err != nil {
		t.fail(now, err)
		return
	}
	var a answer
	_ = json.Unmarshal(body, &a) // any server may be asked; only ours says which pod it is
	t.ok(a.Pod, now.Sub(begin))
}

// A tally counts requests. Its methods may be called from any goroutine.
type tally struct {
	mu        sync.Mutex // guards the fields below
	begin     time.Time
	failed    int
	samples   []sample
	pods      map[string]int
	durations []time.Duration // of those that went well
}

// A sample is one failure.
type sample struct {
	AtSeconds float64 `json:"at_seconds"` // since the run began
	Error     string  `json:"error"`
}

// A report is what a tally says.
type report struct {
	Seconds float64        `json:"seconds"`
	OK      int            `json:"ok"`
	Failed  int            `json:"failed"`
	Errors  []sample       `json:"errors"` // the first few failures
	Pods    map[string]int `json:"pods"`   // answers by the pod that gave them
	P50     int64          `json:"p50_ns"`
	P99     int64          `json:"p99_ns"`
	Max     int64          `json:"max_ns"`
}

func newTally(now time.Time) *tally { return &tally{begin: now, pods: make(map[string]int)} }

func (t *tally) ok(pod string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.durations = append(t.durations, took)
	if pod != "" {
		t.pods[pod]++
	}
}

// answered is how many requests went well so far.
func (t *tally) answered() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.durations)
}

func (t *tally) fail(now time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed++
	if len(t.samples) < maxSamples {
		t.samples = append(t.samples, sample{AtSeconds: now.Sub(t.begin).Seconds(), Error: err.Error()})
	}
}

func (t *tally) report(now time.Time) report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := report{
		Seconds: now.Sub(t.begin).Seconds(),
		OK:      len(t.durations),
		Failed:  t.failed,
		Errors:  append([]sample{}, t.samples...),
		Pods:    make(map[string]int),
	}
	maps.Copy(r.Pods, t.pods)
	d := summarize(t.durations)
	r.P50, r.P99, r.Max = d.P50, d.P99, d.Max
	return r
}
