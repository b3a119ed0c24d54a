package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseTakesFlagsAnywhere(t *testing.T) {
	for _, test := range []struct {
		args  string
		want  int
		usage bool
	}{
		{args: "URL", want: 1},
		{args: "URL --timeout 3s", want: 1},
		{args: "--timeout 3s URL", want: 1},
		{args: "HOST --timeout=3s TEXT", want: 2},
		{args: "--timeout 3s", want: 1, usage: true},
		{args: "URL extra", want: 1, usage: true},
		{args: "URL --nonsense", want: 1, usage: true},
	} {
		t.Run(test.args, func(t *testing.T) {
			flags := flag.NewFlagSet("get", flag.ContinueOnError)
			timeout := flags.Duration("timeout", 0, "")
			rest, err := parse(flags, strings.Fields(test.args), test.want)
			if errors.Is(err, errUsage) != test.usage {
				t.Fatalf("error %v, want a usage error: %t", err, test.usage)
			}
			if err == nil && (len(rest) != test.want || (strings.Contains(test.args, "3s") && *timeout != 3*time.Second)) {
				t.Errorf("got %q and timeout %s", rest, *timeout)
			}
		})
	}
}

func TestRunRefusesUnknownVerbs(t *testing.T) {
	for _, args := range [][]string{nil, {"dance"}, {"latency"}, {"load", "URL", "--rate", "0"}, {"latency", "--direct", "x"}} {
		if err := run(t.Context(), new(bytes.Buffer), args); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want a usage error", args, err)
		}
	}
}

func TestTallyReport(t *testing.T) {
	begin := time.Unix(1000, 0)
	c := newTally(begin)
	for i := range 99 {
		c.ok(fmt.Sprintf("pod-%d", i%2), time.Duration(i+1)*time.Millisecond)
	}
	c.ok("", time.Second) // a server that does not say who it is
	for i := range maxSamples + 3 {
		c.fail(begin.Add(time.Duration(i)*time.Second), fmt.Errorf("failure %d", i))
	}
	got := c.report(begin.Add(10 * time.Second))
	want := report{
		Seconds: 10, OK: 100, Failed: maxSamples + 3,
		Pods: map[string]int{"pod-0": 50, "pod-1": 49},
		P50:  (50 * time.Millisecond).Nanoseconds(), P99: (99 * time.Millisecond).Nanoseconds(), Max: time.Second.Nanoseconds(),
	}
	for i := range maxSamples {
		want.Errors = append(want.Errors, sample{AtSeconds: float64(i), Error: fmt.Sprintf("failure %d", i)})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestEmptyReportHasNoNulls(t *testing.T) {
	text, err := json.Marshal(newTally(time.Unix(0, 0)).report(time.Unix(0, 0)))
	if err != nil || bytes.Contains(text, []byte("null")) {
		t.Errorf("%s (%v)", text, err)
	}
}

func TestSummarize(t *testing.T) {
	for name, test := range map[string]struct {
		took []time.Duration
		want summary
	}{
		"none":     {nil, summary{}},
		"one":      {[]time.Duration{7}, summary{P50: 7, P99: 7, Max: 7}},
		"two":      {[]time.Duration{9, 7}, summary{P50: 7, P99: 9, Max: 9}},
		"unsorted": {[]time.Duration{3, 1, 2}, summary{P50: 2, P99: 3, Max: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := summarize(test.took); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestLoadCountsAnswersAndFailures(t *testing.T) {
	fails := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer fails.Close()
	works := httptest.NewServer(server{place: place{Pod: "web-1"}})
	defer works.Close()
	for name, test := range map[string]struct {
		url        string
		ok, failed int
	}{
		"answers": {url: works.URL, ok: 3},
		"errors":  {url: fails.URL, failed: 3},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := newTally(time.Now())
			asked := 0
			load{url: test.url, every: time.Millisecond, timeout: 5 * time.Second}.run(ctx, c, func() {
				if asked++; asked == 3 {
					cancel() // run makes this request still
				}
			})
			got := c.report(time.Now())
			if got.OK < test.ok || got.OK > 0 != (test.ok > 0) || got.Failed < test.failed || got.Failed > 0 != (test.failed > 0) {
				t.Errorf("got %+v", got)
			}
			if test.ok > 0 && got.Pods["web-1"] != got.OK {
				t.Errorf("answers by pod %v, want all %d from web-1", got.Pods, got.OK)
			}
			if test.failed > 0 && (len(got.Errors) == 0 || !strings.Contains(got.Errors[0].Error, "503")) {
				t.Errorf("samples %v do not say 503", got.Errors)
			}
		})
	}
}

func TestServeAnswersThroughItsUpstream(t *testing.T) {
	back := httptest.NewServer(server{place: place{Pod: "back-1", Node: "n2"}})
	defer back.Close()
	front := httptest.NewServer(server{place: place{Pod: "front-1", Node: "n1"}, upstream: back.URL + "/deep"})
	defer front.Close()
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"get", front.URL + "/shop"}); err != nil {
		t.Fatal(err)
	}
	var a, b answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(a.Upstream, &b); err != nil {
		t.Fatal(err)
	}
	got := []string{a.Pod, a.Node, a.Path, b.Pod, b.Node, b.Path}
	want := []string{"front-1", "n1", "/shop", "back-1", "n2", "/deep"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	back.Close()
	if err := run(t.Context(), &out, []string{"get", front.URL}); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("with its back end gone: %v, want 502", err)
	}
	if err := run(t.Context(), &out, []string{"get", front.URL + "/healthz"}); err != nil {
		t.Errorf("health with its back end gone: %v", err)
	}
}

func TestServeDrains(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	terminated, terminate := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- server{place: place{Pod: "web-1"}, grace: time.Minute, quiet: 200 * time.Millisecond}.serve(terminated, listener)
	}()
	if _, err := fetch(t.Context(), url, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	terminate()
	if _, err := fetch(t.Context(), url, 5*time.Second); err != nil {
		t.Errorf("new connection right after SIGTERM: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := fetch(t.Context(), url, 5*time.Second); err == nil {
		t.Error("still serves after it drained")
	}
}

func TestAwaitIdle(t *testing.T) {
	const quiet, grace = time.Second, 10 * time.Second
	for name, test := range map[string]struct {
		busy time.Duration // how long a connection stays in use
		want time.Duration
	}{
		"idle":             {0, quiet},
		"busy for a while": {4 * time.Second, 4*time.Second + quiet},
		"busy for ever":    {time.Hour, grace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &connections{idleSince: time.Now().Add(-time.Hour)}
				var conn net.Conn = &net.TCPConn{}
				if test.busy > 0 {
					c.track(conn, http.StateActive)
					time.AfterFunc(test.busy, func() { c.track(conn, http.StateIdle) })
				}
				begin := time.Now()
				c.awaitIdle(quiet, begin.Add(grace))
				if got := time.Since(begin).Round(100 * time.Millisecond); got != test.want {
					t.Errorf("drained after %s, want %s", got, test.want)
				}
			})
		})
	}
}

func TestUDPEcho(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- udpEcho(conn, "dns-1") }()
	var out bytes.Buffer
	for _, text := range []string{"first and longer", "second"} {
		if err := run(t.Context(), &out, []string{"udp-get", conn.LocalAddr().String(), text}); err != nil {
			t.Fatal(err)
		}
	}
	if want := "dns-1 first and longer\ndns-1 second\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	_ = conn.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("echo ended with %v", err)
	}
}

func TestLatencyMeasuresWhatItIsGiven(t *testing.T) {
	s := httptest.NewServer(server{})
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"latency", "--direct", addr, "--service", addr, "--rounds", "50"}); err != nil {
		t.Fatal(err)
	}
	var got comparison
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Rounds != 50 || got.Direct == nil || got.Service == nil || got.Lookup != nil {
		t.Fatalf("got %s", out.String())
	}
	if got.Direct.P50 <= 0 || got.Direct.P99 < got.Direct.P50 || got.Direct.Max < got.Direct.P99 {
		t.Errorf("direct %+v is no distribution", *got.Direct)
	}
	closed := addr
	s.Close()
	if err := run(t.Context(), &out, []string{"latency", "--direct", closed}); err == nil {
		t.Error("measured connects that are refused")
	}
}

func TestLookupOfAnAddress(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"lookup", "192.0.2.9"}); err != nil || out.String() != "192.0.2.9\n" {
		t.Errorf("got %q (%v)", out.String(), err)
	}
}

func TestNames(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"names", "--rounds", "2", "192.0.2.9", "2001:db8::1"}); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("192.0.2.9 192.0.2.9\n2001:db8::1 2001:db8::1\n", 2); out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if err := run(t.Context(), &out, []string{"names"}); !errors.Is(err, errUsage) {
		t.Errorf("without names: %v", err)
	}
}
