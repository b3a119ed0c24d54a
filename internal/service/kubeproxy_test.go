package service

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
)

// A face is a KubeProxy whose clock and changes are the test's.
type face struct {
	*KubeProxy
	t        *testing.T
	store    *cluster.Store
	registry *prometheus.Registry
	clock    time.Time
	noLocal  map[bool][2]int
}

func newFace(t *testing.T, nodeRequired bool) *face {
	t.Helper()
	f := &face{t: t, store: cluster.NewStore(), registry: prometheus.NewRegistry(), clock: time.Now(), noLocal: map[bool][2]int{}}
	var err error
	f.KubeProxy, err = NewKubeProxy(KubeProxyConfig{
		Node: "node-a", NodeRequired: nodeRequired, Metrics: f.registry,
		NoLocal: func(v6 bool) (int, int) { return f.noLocal[v6][0], f.noLocal[v6][1] },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.now = func() time.Time { return f.clock }
	f.started = f.clock
	return f
}

func (f *face) put(edit func(*cluster.Edit)) *cluster.Snapshot {
	f.store.Update(edit)
	return f.store.Snapshot()
}

func (f *face) synced(c cluster.Change, err error) {
	f.Synced(Sync{Change: c, Started: f.clock, Done: f.clock.Add(3 * time.Millisecond), Err: err, Maps: err})
}

func (f *face) get(h http.Handler) (int, map[string]any) {
	f.t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		f.t.Errorf("content type %q", got)
	}
	if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
		f.t.Errorf("X-Content-Type-Options %q", got)
	}
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		f.t.Fatal(err)
	}
	return w.Code, body
}

func (f *face) want(when string, healthz, livez int) {
	f.t.Helper()
	if code, body := f.get(f.Healthz()); code != healthz {
		f.t.Errorf("%s: /healthz: %d %v, want %d", when, code, body, healthz)
	}
	if code, body := f.get(f.Livez()); code != livez {
		f.t.Errorf("%s: /livez: %d %v, want %d", when, code, body, livez)
	}
}

func putWeb(change ...func(*cluster.Service)) func(*cluster.Edit) {
	return func(e *cluster.Edit) { e.PutService(webService(change...)) }
}

func TestHealthz(t *testing.T) {
	t.Parallel()
	f := newFace(t, false)
	f.want("H2 before the first sync", 200, 200)
	first := cluster.Change{Snapshot: f.put(putWeb()), Full: true}
	f.queue(first)
	f.clock = f.clock.Add(2 * healthTimeout)
	f.want("H2 the first sync may take long", 200, 200)
	f.synced(first, nil)
	f.want("H2 served", 200, 200)
	f.clock = f.clock.Add(time.Hour)
	f.want("H2 nothing to do for long", 200, 200)

	second := cluster.Change{Snapshot: f.put(putWeb(dualStack)), Services: []cluster.Name{web}}
	f.queue(second)
	f.clock = f.clock.Add(healthTimeout - time.Second)
	f.want("H2 a change waits", 200, 200)
	third := cluster.Change{Snapshot: f.put(putWeb()), Services: []cluster.Name{web}}
	f.queue(third)
	f.synced(second, errors.New("no room"))
	f.clock = f.clock.Add(time.Second)
	f.want("H2 a change has waited for a minute", 503, 503)
	if err := f.Unserved(); err == nil || err.Error() != "no room" {
		t.Errorf("H8 unserved: %v", err)
	}
	f.synced(third, nil)
	if err := f.Unserved(); err != nil {
		t.Errorf("H8 unserved though all is: %v", err)
	}
	f.want("H2 served at last", 200, 200)

	// The Reconciler may be faster than who counts the waiting.
	fourth := cluster.Change{Snapshot: f.put(putWeb(dualStack)), Services: []cluster.Name{web}}
	f.synced(fourth, nil)
	f.queue(fourth)
	f.clock = f.clock.Add(time.Hour)
	f.want("H2 served before it was counted", 200, 200)
}

func TestHealthzOfNode(t *testing.T) {
	t.Parallel()
	f := newFace(t, true)
	node := func(change func(*cluster.Node)) func(*cluster.Edit) {
		n := &cluster.Node{Meta: cluster.Meta{Name: cluster.Name{Name: "node-a"}}}
		change(n)
		return func(e *cluster.Edit) { e.PutNode(n) }
	}
	step := func(when string, healthz int, edit func(*cluster.Edit)) {
		t.Helper()
		c := cluster.Change{Snapshot: f.put(edit), Full: true}
		f.queue(c)
		f.synced(c, nil)
		f.want(when, healthz, 200)
		if _, body := f.get(f.Healthz()); body["nodeEligible"] != (healthz == 200) {
			t.Errorf("%s: %v", when, body)
		}
		if _, body := f.get(f.Livez()); body["nodeEligible"] != nil {
			t.Errorf("%s: /livez knows of nodes: %v", when, body)
		}
	}
	step("H2 no Node", 503, putWeb())
	step("H2 a Node", 200, node(func(*cluster.Node) {}))
	step("H2 a Node that leaves", 503, node(func(n *cluster.Node) { n.Leaving = true }))
	step("H2 it stays after all", 200, node(func(*cluster.Node) {}))
	step("H2 it is gone", 503, func(e *cluster.Edit) { e.DeleteNode("node-a") })
}

func TestHealthzBody(t *testing.T) {
	t.Parallel()
	f := newFace(t, false)
	f.clock = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	c := cluster.Change{Snapshot: f.put(putWeb()), Full: true}
	f.queue(c)
	f.synced(c, nil)
	f.clock = f.clock.Add(time.Second)
	w := httptest.NewRecorder()
	f.Healthz().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	want := `{"lastUpdated":"2026-08-01T12:00:01Z","currentTime":"2026-08-01T12:00:01Z","nodeEligible":true,"healthy":true,` +
		`"status":{"IPv4":{"lastUpdated":"2026-08-01T12:00:00Z","healthy":true},"IPv6":{"lastUpdated":"2026-08-01T12:00:00Z","healthy":true}}}`
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Errorf("H2 body differs (-want +got):\n%s", diff)
	}
}

// TestKubeProxyMetrics: H4. What the numbers are after a life of three changes.
func TestKubeProxyMetrics(t *testing.T) {
	t.Parallel()
	f := newFace(t, false)
	started := f.clock
	withSlice := func(at time.Time, endpoints ...cluster.Endpoint) func(*cluster.Edit) {
		s := slice(endpoints...)
		s.Name, s.Triggered = cluster.Name{Namespace: "shop", Name: "web-1"}, at
		return func(e *cluster.Edit) { e.PutSlice(s) }
	}
	f.put(withSlice(started.Add(-time.Hour), endpoint("10.0.0.1")))
	first := cluster.Change{Snapshot: f.put(putWeb()), Full: true}
	f.queue(first)
	wantMetric(t, f, "kubeproxy_sync_proxy_rules_service_changes_pending", 1)
	wantMetric(t, f, "kubeproxy_sync_proxy_rules_endpoint_changes_pending", 1)
	f.synced(first, nil)
	f.clock = started.Add(10 * time.Second)
	second := cluster.Change{Snapshot: f.put(withSlice(started.Add(9*time.Second), endpoint("10.0.0.2"))), Services: []cluster.Name{web}}
	f.queue(second)
	f.synced(second, errors.New("no room"))
	wantMetric(t, f, "kubeproxy_sync_proxy_rules_endpoint_changes_pending", 1)
	f.clock = started.Add(11 * time.Second)
	f.noLocal[true] = [2]int{1, 2}
	f.synced(cluster.Change{Snapshot: second.Snapshot, Full: true}, nil)
	f.synced(cluster.Change{Snapshot: second.Snapshot, Full: true}, nil) // the trigger is counted once
	f.get(f.Healthz())
	f.get(f.Livez())
	f.Reconciled(false, time.Millisecond, 3)

	got, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, family := range got {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.Counter.GetValue() + m.Gauge.GetValue()
			if m.Histogram != nil {
				value = float64(m.Histogram.GetSampleCount())
			}
			if strings.HasSuffix(family.GetName(), "timestamp_seconds") {
				value -= seconds(started)
			}
			text = append(text, strings.TrimSpace(strings.TrimPrefix(family.GetName(), "kubeproxy_")+" "+strings.Join(labels, " "))+" "+
				strings.TrimSuffix(strings.TrimRight(formatFloat(value), "0"), "."))
		}
	}
	want := `conntrack_reconciler_deleted_entries_total ip_family=IPv4 3
conntrack_reconciler_sync_duration_seconds ip_family=IPv4 1
network_programming_duration_seconds ip_family=IPv4 1
proxy_healthz_total code=200 1
proxy_livez_total code=200 1
sync_full_proxy_rules_duration_seconds ip_family=IPv4 3
sync_full_proxy_rules_duration_seconds ip_family=IPv6 3
sync_partial_proxy_rules_duration_seconds ip_family=IPv4 1
sync_partial_proxy_rules_duration_seconds ip_family=IPv6 1
sync_proxy_rules_duration_seconds ip_family=IPv4 4
sync_proxy_rules_duration_seconds ip_family=IPv6 4
sync_proxy_rules_endpoint_changes_pending 0
sync_proxy_rules_endpoint_changes_total 2
sync_proxy_rules_last_queued_timestamp_seconds ip_family=IPv4 10
sync_proxy_rules_last_queued_timestamp_seconds ip_family=IPv6 10
sync_proxy_rules_last_timestamp_seconds ip_family=IPv4 11
sync_proxy_rules_last_timestamp_seconds ip_family=IPv6 11
sync_proxy_rules_no_local_endpoints_total ip_family=IPv4 traffic_policy=external 0
sync_proxy_rules_no_local_endpoints_total ip_family=IPv4 traffic_policy=internal 0
sync_proxy_rules_no_local_endpoints_total ip_family=IPv6 traffic_policy=external 2
sync_proxy_rules_no_local_endpoints_total ip_family=IPv6 traffic_policy=internal 1
sync_proxy_rules_service_changes_pending 0
sync_proxy_rules_service_changes_total 1`
	if diff := cmp.Diff(strings.Split(want, "\n"), text); diff != "" {
		t.Errorf("H4 metrics differ (-want +got):\n%s", diff)
	}
}

func formatFloat(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }

func wantMetric(t *testing.T, f *face, name string, want float64) {
	t.Helper()
	got, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range got {
		if family.GetName() == name {
			if v := family.Metric[0].Gauge.GetValue(); v != want {
				t.Errorf("H4 %s is %v, want %v", name, v, want)
			}
			return
		}
	}
	t.Errorf("H4 no %s", name)
}

// TestKubeProxyMetricNames holds names and help against a list taken from pkg/proxy/metrics/metrics.go of Kubernetes 1.36.
func TestKubeProxyMetricNames(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/kubeproxy-metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	f := newFace(t, false)
	descriptions := make(chan *prometheus.Desc, 100)
	f.registry.Describe(descriptions)
	close(descriptions)
	var got []string
	parse := regexp.MustCompile(`fqName: "(.*?)", help: "\[ALPHA\] (.*?)", .*variableLabels: \{(.*?)\}`)
	for d := range descriptions {
		m := parse.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		got = append(got, m[1]+"{"+m[3]+"} "+m[2])
	}
	slices.Sort(got)
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(string(text)), "\n"), got); diff != "" {
		t.Errorf("H4 metrics differ (-want +got):\n%s", diff)
	}
}

// TestEachTouched: a Service counts once, however a Change names it.
func TestEachTouched(t *testing.T) {
	t.Parallel()
	f, gone := newFace(t, false), cluster.Name{Namespace: "shop", Name: "gone"}
	s := f.put(putWeb())
	for full, want := range map[bool]int{true: 2, false: 2} {
		seen := map[cluster.Name]int{}
		eachTouched(cluster.Change{Snapshot: s, Full: full, Services: []cluster.Name{web, gone}}, func(n cluster.Name) { seen[n]++ })
		if len(seen) != want || seen[web] != 1 || seen[gone] != 1 {
			t.Errorf("full %t: %v", full, seen)
		}
	}
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	f := newFace(t, false)
	at := netip.MustParseAddrPort
	if !f.Datagrams()(at("10.96.0.1:53"), at("10.0.0.9:53")) {
		t.Error("before the first sync nobody knows")
	}
	udp := func(s *cluster.Service) {
		s.Ports = []cluster.ServicePort{{Name: "dns", Protocol: cluster.UDP, Port: 53, NodePort: 30053}}
	}
	s := &cluster.EndpointSlice{
		Name: web, Service: web, Ports: []cluster.EndpointPort{{Name: "dns", Protocol: cluster.UDP, Port: 5353}},
		Endpoints: []cluster.Endpoint{endpoint("10.0.0.1"), endpoint("10.0.0.2", draining), endpoint("10.0.0.3", dead)},
	}
	f.put(func(e *cluster.Edit) { e.PutSlice(s) })
	other := cluster.Name{Namespace: "shop", Name: "other"}
	theirs := *s
	theirs.Name, theirs.Service, theirs.Endpoints = other, other, []cluster.Endpoint{endpoint("10.0.0.3"), endpoint("10.0.0.4")}
	f.put(func(e *cluster.Edit) { e.PutSlice(&theirs) })
	f.put(func(e *cluster.Edit) {
		e.PutService(webService(udp, func(s *cluster.Service) {
			s.Name, s.ClusterIPs, s.Ports[0].NodePort = other, addrs("10.96.0.2"), 30055
		}))
	})
	c := cluster.Change{Snapshot: f.put(putWeb(udp)), Full: true}
	f.queue(c)
	f.synced(c, nil)
	serves := f.Datagrams()
	for _, tt := range []struct {
		frontend, backend string
		want              bool
	}{
		{"10.96.0.1:53", "10.0.0.1:5353", true},
		{"10.96.0.1:53", "10.0.0.2:5353", true},
		{"10.96.0.1:53", "10.0.0.3:5353", false},
		{"10.96.0.1:53", "10.0.0.1:53", false},
		{"10.96.0.2:53", "10.0.0.3:5353", true},
		{"10.96.0.2:53", "10.0.0.1:5353", false}, // another Service's
		{"10.96.0.1:53", "10.0.0.4:5353", false},
		{"192.0.2.1:30053", "10.0.0.1:5353", true},
		{"192.0.2.1:30053", "10.0.0.4:5353", false},
		{"192.0.2.1:30055", "10.0.0.4:5353", true},
		{"192.0.2.1:30053", "10.0.0.9:5353", false},
		{"192.0.2.1:30054", "10.0.0.9:5353", true},
	} {
		if got := serves(at(tt.frontend), at(tt.backend)); got != tt.want {
			t.Errorf("G2 %s serves %s: %v", tt.backend, tt.frontend, got)
		}
	}
}
