package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// A task is a long-lived part of the agent. Run returns nil when its context ends; any other return ends the agent.
type task interface {
	Run(context.Context) error
	Ready() <-chan struct{}
	String() string
}

// tasks run and end together.
type tasks []task

func (ts tasks) run(ctx context.Context, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range ts {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			return nil
		})
		group.Go(func() error {
			select {
			case <-t.Ready():
				log.Info("task is ready", "task", t.String())
			case <-ctx.Done():
			}
			return nil
		})
	}
	return group.Wait()
}

// waiting names the tasks that are not ready.
func (ts tasks) waiting() (names []string) {
	for _, t := range ts {
		select {
		case <-t.Ready():
		default:
			names = append(names, t.String())
		}
	}
	return names
}

// after is a task that does one thing once another is ready.
type after struct {
	name  string
	first <-chan struct{}
	do    func() error
	ready chan struct{}
}

func (a *after) String() string         { return a.name }
func (a *after) Ready() <-chan struct{} { return a.ready }

func (a *after) Run(ctx context.Context) error {
	select {
	case <-a.first:
	case <-ctx.Done():
		return nil
	}
	if err := a.do(); err != nil {
		return err
	}
	close(a.ready)
	<-ctx.Done()
	return nil
}

// health serves /healthz, /readyz and /metrics on a loopback address.
type health struct {
	listen  netip.AddrPort
	metrics prometheus.Gatherer
	waiting func() []string
	detail  func() string // what /readyz says besides; nil: nothing
	ready   chan struct{}
}

func (h *health) String() string         { return "health endpoints" }
func (h *health) Ready() <-chan struct{} { return h.ready }

func (h *health) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", h.listen.String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h.mux(), ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	close(h.ready)
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (h *health) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		detail := ""
		if h.detail != nil {
			detail = h.detail()
		}
		if waiting := h.waiting(); len(waiting) > 0 {
			http.Error(w, strings.TrimSpace("not ready: "+strings.Join(waiting, ", ")+"\n"+detail), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, strings.TrimSpace("ok\n"+detail))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.metrics, promhttp.HandlerOpts{}))
	return mux
}
