package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func dropAt(at time.Time, port uint16) dropView {
	return dropView{
		Time: at, Pod: "shop/db", Address: netip.MustParseAddr("10.8.0.5"), PeerPod: "shop/web", PeerAddress: netip.MustParseAddr("10.8.0.9"),
		Direction: ingressName, Protocol: "TCP", Port: port, Reason: "denied by policy", Policies: []string{"NetworkPolicy shop/only-api"},
	}
}

// TestDropLog: what the kernel tells is logged with names, of many events in a second some, and the rest are counted.
func TestDropLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logs := true
	l := newDropLog(nil, func() bool { return logs }, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
	at := time.Unix(1000, 0)
	for i := range 2 * dropLines {
		l.take(dropAt(at, uint16(i)))
	}
	l.take(dropAt(at.Add(time.Second), 80))
	logs = false
	l.take(dropAt(at.Add(time.Second), 81))
	text := out.String()
	if got, want := strings.Count(text, "packet dropped by policy"), dropLines+1; got != want {
		t.Errorf("%d lines, want %d:\n%s", got, want, text)
	}
	for _, want := range []string{
		"shop/db 10.8.0.5: ingress from shop/web 10.8.0.9, TCP port 80: denied by policy (NetworkPolicy shop/only-api)", fmt.Sprintf("events=%d", dropLines),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if got := value(t, l.events); got != 2*dropLines+2 {
		t.Errorf("%v events counted", got)
	}
	if got := value(t, l.silent); got != dropLines {
		t.Errorf("%v events not logged", got)
	}
}

// TestDropsAreKept: who asks gets what came after what it has, is told what it has missed, and can wait for the next.
func TestDropsAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newDropLog(nil, func() bool { return false }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		for i := range 3 * keptDrops {
			l.take(dropAt(time.Now(), uint16(i)))
		}
		for _, tt := range []struct {
			after, lost uint64
			drops       int
		}{
			{0, 2 * keptDrops, keptDrops}, {3*keptDrops - 2, 0, 2}, {3 * keptDrops, 0, 0}, {9 * keptDrops, 2 * keptDrops, keptDrops},
		} {
			view, _ := l.after(tt.after)
			if len(view.Drops) != tt.drops || view.Lost != tt.lost {
				t.Errorf("after %d: %d events, %d lost, want %d and %d", tt.after, len(view.Drops), view.Lost, tt.drops, tt.lost)
			}
			if n := len(view.Drops); n > 0 && view.Drops[n-1].Sequence != 3*keptDrops {
				t.Errorf("after %d: the last event is %d", tt.after, view.Drops[n-1].Sequence)
			}
		}
		got := make(chan any, 1)
		go func() {
			view, err := l.serve(t.Context(), dropsRequest{After: 3 * keptDrops, Wait: true})
			got <- errors.Join(err, checkOne(view))
		}()
		synctest.Wait()
		l.take(dropAt(time.Now(), 7))
		if err := <-got; err != nil {
			t.Error(err)
		}
		if view, err := l.serve(t.Context(), dropsRequest{After: 3*keptDrops + 1, Wait: true}); err != nil || len(view.(dropsView).Drops) != 0 {
			t.Errorf("who waits in vain gets %v, %v", view, err)
		}
	})
}

func checkOne(view any) error {
	if v, ok := view.(dropsView); !ok || len(v.Drops) != 1 || v.Drops[0].Port != 7 {
		return fmt.Errorf("who waits gets %+v", view)
	}
	return nil
}

// TestDropLogGoesOn: events that cannot be read are told once, and do not end the agent.
func TestDropLogGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		reads := 0
		ctx, cancel := context.WithCancel(t.Context())
		l := newDropLog(func(ctx context.Context) (dropView, error) {
			if reads++; reads <= 3 {
				return dropView{}, errors.New("no ring")
			}
			if reads == 4 {
				return dropAt(time.Now(), 80), nil
			}
			cancel()
			return dropView{}, ctx.Err()
		}, func() bool { return false }, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
		if got := strings.Count(out.String(), "no ring"); got != 1 {
			t.Errorf("told %d times:\n%s", got, out.String())
		}
		if view, _ := l.after(0); len(view.Drops) != 1 {
			t.Errorf("kept %+v", view)
		}
	})
}
