package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// A tester gives orders to a probe that serves on address.
type tester struct {
	t       *testing.T
	address string
	orders  *io.PipeWriter
	replies *bufio.Scanner
}

func startProbe(t *testing.T) tester {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	t.Setenv("POD_NAME", "probe-1")
	in, orders := io.Pipe()
	replies, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- probeCommand(t.Context(), in, out, []string{address}) }()
	t.Cleanup(func() {
		orders.Close()
		replies.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	p := tester{t, address, orders, bufio.NewScanner(replies)}
	if r := p.read(); r.By != "probe-1" {
		t.Fatalf("the probe says %+v", r)
	}
	return p
}

func (p tester) read() (r reply) {
	p.t.Helper()
	if !p.replies.Scan() {
		p.t.Fatal(p.replies.Err())
	}
	if err := json.Unmarshal(p.replies.Bytes(), &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p tester) tell(o order) reply {
	p.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(p.orders, "%s\n", text); err != nil {
		p.t.Fatal(err)
	}
	r := p.read()
	if r.ID != o.ID {
		p.t.Fatalf("reply to order %d, want %d", r.ID, o.ID)
	}
	return r
}

func TestProbeAsks(t *testing.T) {
	p := startProbe(t)
	for i, network := range []string{"tcp", "udp"} {
		r := p.tell(order{ID: i + 1, Do: "ask", Network: network, To: p.address, Timeout: time.Second})
		if r.Error != "" || r.By != "probe-1" || r.Saw.Addr().String() != "127.0.0.1" || r.Key != fmt.Sprint(i+1) {
			t.Errorf("%s: %+v", network, r)
		}
	}
	if r := p.tell(order{ID: 9, Do: "dance"}); r.Error == "" {
		t.Errorf("an order that is none: %+v", r)
	}
}

func TestProbeTellsGap(t *testing.T) {
	start := time.Unix(1000, 0)
	f := &flow{answered: map[int]bool{}}
	for i := range 10 {
		f.asked = append(f.asked, start.Add(time.Duration(i)*time.Second))
		f.answered[i] = i != 4 && i != 5
	}
	f.answered[4], f.answered[5] = false, false
	if r := f.report(time.Second); r.Gap != 3*time.Second || r.Steady != 4 || r.Asked != 10 {
		t.Errorf("got %+v, want a gap of 3s and 4 steady of 10", r)
	}
	f.asked = append(f.asked, time.Now()) // may still be answered
	if r := f.report(time.Minute); r.Steady != 4 {
		t.Errorf("got %+v, want 4 steady", r)
	}
	f.asked[10] = time.Now().Add(-time.Minute)
	if r := f.report(time.Second); r.Steady != 0 || r.Gap < time.Hour {
		t.Errorf("got %+v, want none steady and a gap until now", r)
	}
}
