package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/strict"
)

func fetch(handler http.Handler, path string) (status int, body string) {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// TestMetricsMux: H3, what kube-proxy answers on 10249.
func TestMetricsMux(t *testing.T) {
	t.Parallel()
	c := defaultConfig()
	c.Cloud.AccessKeyID, c.Cloud.AccessKeySecret = "LTAI-secret-id", "secret-key"
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubeproxy_x", Help: "x"}))
	mux := kubeProxyFace{metrics: registry}.metricsMux(c)
	for path, want := range map[string]string{
		"/metrics": "kubeproxy_x 0", "/proxyMode": "nearpath", "/healthz": "ok", "/flagz": "nearpath flagz",
		"/configz": `"metricsAddress": "127.0.0.1:10249"`,
	} {
		status, body := fetch(mux, path)
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("H3 %s: %d %s", path, status, body)
		}
		if strings.Contains(body, "secret") && path != "/configz" || strings.Contains(body, "secret-") {
			t.Errorf("H3 %s shows a key: %s", path, body)
		}
	}
	if _, body := fetch(mux, "/proxyMode"); body != "nearpath" {
		t.Errorf("H3 /proxyMode: %q, want the word alone", body)
	}
}

// TestPatientServer: an address that another program has is told of once, and served when it is free.
func TestPatientServer(t *testing.T) {
	t.Parallel()
	other, err := net.Listen("tcp", "127.10.24.9:0") // where no other test takes the port when it is free
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var mu sync.Mutex
	var events []string
	at := netip.MustParseAddrPort(other.Addr().String())
	s := newPatientServer("proxy health", at, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }),
		func(reason, message string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, reason+" "+message)
		}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	told := func() bool { mu.Lock(); defer mu.Unlock(); return len(events) > 0 }
	sign := func() string {
		t.Helper()
		sign, err := otherProxy([]*patientServer{s})
		if err != nil {
			t.Error(err)
		}
		return sign
	}
	served := func() bool {
		r, err := http.Get("http://" + at.String())
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		return err == nil && string(body) == "here"
	}
	for _, step := range []struct {
		what string
		is   func() bool
		then func()
	}{{"no event", told, func() {
		if got := sign(); !strings.Contains(got, "another program") || !strings.Contains(got, at.String()) {
			t.Errorf("another program at %s is no sign of kube-proxy: %q", at, got)
		}
		other.Close()
	}}, {"not served", served, func() {
		if got := sign(); strings.Contains(got, at.String()) {
			t.Errorf("the agent's own server is taken for kube-proxy's: %q", got)
		}
		cancel()
	}}} {
		for end := time.Now().Add(20 * time.Second); !step.is(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(step.what)
			}
		}
		step.then()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "ProxyPortNotServed proxy health is not served at "+at.String()) {
		t.Errorf("events: %q", events)
	}
}

// TestProxyDefaults: a proxy with a name works beside kube-proxy, whose addresses and rules it leaves alone.
func TestProxyDefaults(t *testing.T) {
	t.Parallel()
	type values struct {
		healthz, metrics string
		takeOver         bool
	}
	const none = "invalid AddrPort"
	for text, want := range map[string]values{
		"": {"0.0.0.0:10256", "127.0.0.1:10249", true},
		`services: {healthzAddress: "", metricsAddress: "[::1]:1"}`:    {none, "[::1]:1", true},
		"services: {proxyName: near}":                                  {none, none, false},
		`services: {proxyName: near, healthzAddress: "0.0.0.0:10257"}`: {"0.0.0.0:10257", none, false},
	} {
		c, err := readConfig(writeConfig(t, text))
		if err := errors.Join(err, strict.Check(c.Services.check())); err != nil {
			t.Fatal(err)
		}
		if got := (values{c.Services.HealthzAddress.String(), c.Services.MetricsAddress.String(), c.Services.TakeOver}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestForeignMark: E7. kube-proxy masquerades what has this mark, and so may others who know of it.
func TestForeignMark(t *testing.T) {
	t.Parallel()
	const masquerade = 0x4000
	if marks := uint32(hostnet.OutsideMark | hostnet.PodMarkMask); marks&masquerade != 0 {
		t.Errorf("E7 marks %#x of ours hold kube-proxy's %#x", marks, masquerade)
	}
}
