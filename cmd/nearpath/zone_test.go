package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/internal/cluster"
)

// TestAdopt: the plan of an adoption writes nothing, applying it makes the records ours, and then they follow the objects.
func TestAdopt(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, func(c *sim.Config) { c.Policies = map[string][]string{sim.DefaultAccessKey: documentedRights(t)} })
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.1"))
	add := func(rr, recordType, value string) int64 {
		t.Helper()
		id, err := r.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: corpZone, RR: rr, Type: recordType, Value: value, TTL: 60})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	const heritage = `heritage=external-dns;external-dns/owner=old;external-dns/resource=service/shop/`
	cart := add("cart", "A", "10.96.0.1")
	add("a-cart", "TXT", heritage+"cart")
	gone := add("gone", "A", "10.96.0.7")
	add("a-gone", "TXT", heritage+"gone")
	socket := r.start(t)
	r.until(t, "a status", func() bool {
		st, err := zoneVerb[zoneStatusView](t, socket, "status")
		return err == nil && len(st.Zones) == 2 && st.Zones[0].Listed
	})
	r.until(t, "objects", func() bool { _, err := zoneVerb[planView](t, socket, "plan"); return err == nil })

	adopt := []string{"adopt", "--external-dns", "old", "--remove-txt"}
	writes := r.writes()
	plan, err := zoneVerb[adoptView](t, socket, adopt...)
	if err != nil || plan.Applied || len(plan.Writes) != 2 || plan.Writes[0].Verb != "remark" || plan.Writes[0].RecordID != cart ||
		plan.Writes[0].Object != "Service/shop/cart" || plan.Writes[1].Verb != "delete" || len(plan.Left) != 1 || plan.Left[0].RecordID != gone {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if out, err := execute(t, append([]string{"zone", "--socket", socket}, adopt...)...); err != nil || !strings.Contains(out, "nothing was written: --apply") || !strings.Contains(out, "leave: gone.corp.example") {
		t.Errorf("%v\n%s", err, out)
	}
	if r.writes() != writes {
		t.Error("a plan was written")
	}
	done, err := zoneVerb[adoptView](t, socket, append(adopt, "--apply")...)
	if err != nil || !done.Applied || len(done.Writes) != 2 || done.Writes[0].Error+done.Writes[1].Error != "" {
		t.Errorf("applied %+v, %v", done, err)
	}
	var rows []string
	for _, record := range r.PrivateZone().Records(corpZone) {
		rows = append(rows, fmt.Sprint(record.RR, " ", record.Type, " ", strings.HasPrefix(record.Remark, "np1.prod.")))
	}
	if want := []string{"cart A true", "gone A false", "a-gone TXT false"}; !slices.Equal(rows, want) {
		t.Errorf("records %q, want %q", rows, want)
	}
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.2"))
	r.until(t, "the adopted name's change", func() bool { return r.resolves(t, "cart.corp.example", "10.96.0.2") })
}

// TestHeldDeletes: what goes all at once stays until somebody releases it.
func TestHeldDeletes(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	var all strings.Builder
	for i := range 30 {
		name := fmt.Sprint("web-", i)
		fmt.Fprintf(&all, "%s---\n", serviceAt(name, name+".corp.example", fmt.Sprint("10.96.0.", i+1)))
	}
	r.put(t, "all", all.String())
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.1.1"))
	socket := r.start(t)
	r.until(t, "all records", func() bool { return len(r.PrivateZone().Records(corpZone)) == 31 })
	r.remove(t, "all")
	r.until(t, "the hold", func() bool {
		st, err := zoneVerb[zoneStatusView](t, socket, "status")
		return err == nil && len(st.Holds) == 1 && st.Holds[0].Pending == 30
	})
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.1.2"))
	r.until(t, "a change beside the hold", func() bool { return r.resolves(t, "cart.corp.example", "10.96.1.2") })
	if n := len(r.PrivateZone().Records(corpZone)); n != 31 {
		t.Errorf("%d records while deletes are held", n)
	}
	r.until(t, "a plan of the deletes alone, when the change has been answered", func() bool {
		plan, err := zoneVerb[planView](t, socket, "plan")
		return err == nil && len(plan.Writes) == 30 && len(plan.Holds) == 1
	})
	if _, err := zoneVerb[zoneStatusView](t, socket, "release", "nowhere"); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("a release of no zone: %v", err)
	}
	if _, err := zoneVerb[zoneStatusView](t, socket, "release", "Corp.Example."); err != nil {
		t.Fatal(err)
	}
	r.until(t, "the deletes", func() bool { return len(r.PrivateZone().Records(corpZone)) == 1 })

	held, err := zoneVerb[zoneStatusView](t, socket, "hold", corpZone, "--reason", "moving house")
	if err != nil || len(held.Holds) != 1 || held.Holds[0].Reason != "moving house" {
		t.Errorf("held %+v, %v", held, err)
	}
	r.put(t, "shop", "{apiVersion: v1, kind: Namespace, metadata: {name: other}}")
	r.remove(t, "cart")
	r.until(t, "the held delete", func() bool {
		out, err := execute(t, "zone", "explain", "cart.corp.example", "--socket", socket)
		return err == nil && strings.Contains(out, "held: moving house")
	})
	if !r.resolves(t, "cart.corp.example", "10.96.1.2") {
		t.Error("a held name is gone")
	}
}

// TestDryRun: everything is planned and nothing written, not even by adopt.
func TestDryRun(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.1"))
	socket := r.start(t, "dryRun: true")
	r.until(t, "the plan", func() bool {
		plan, err := zoneVerb[planView](t, socket, "plan")
		return err == nil && len(plan.Writes) == 1 && plan.Writes[0].Verb == "add" && plan.Writes[0].Value == "10.96.0.1"
	})
	if _, err := zoneVerb[adoptView](t, socket, "adopt", "--cloud-provider", "--apply"); err == nil || !strings.Contains(err.Error(), "dryRun") {
		t.Errorf("adopt wrote in a dry run: %v", err)
	}
	audit, err := zoneVerb[auditView](t, socket, "audit")
	if err == nil || audit.Clean || len(audit.Missing) != 1 || audit.Missing[0].Object != "Service/shop/cart" {
		t.Errorf("audit %+v, %v", audit, err)
	}
	out, err := execute(t, "zone", "status", "--socket", socket)
	if err != nil || !strings.Contains(out, "dry run: nothing is written") {
		t.Errorf("%v\n%s", err, out)
	}
	if r.writes() != 0 {
		t.Errorf("calls in a dry run: %v", r.Calls())
	}
}

func TestZoneRecords(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	for _, remark := range []string{"by-hand", externaldns.CCMRemark, "np1.else.aaaaaaaaaaaaaaaaaaaaaaaa"} {
		if _, err := r.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: otherZone, RR: "x", Type: "TXT", Value: remark, TTL: 60, Remark: remark}); err != nil {
			t.Fatal(err)
		}
	}
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.1"))
	socket := r.start(t, "zones: {domains: [Other.example., corp.example]}")
	r.until(t, "the name", func() bool { return r.resolves(t, "cart.corp.example", "10.96.0.1") })
	var rows []string
	records, err := zoneVerb[[]recordView](t, socket, "records")
	for _, v := range records {
		rows = append(rows, v.Name+" "+v.Owner+" "+v.By+" "+v.Object)
	}
	want := []string{"cart.corp.example ours prod Service/shop/cart", "x.other.example foreign by-hand ", "x.other.example foreign cloud provider ", "x.other.example sibling else "}
	if err != nil || !slices.Equal(rows, want) {
		t.Errorf("%q, %v; want %q", rows, err, want)
	}
	only := r.start(t, "ownerID: second", "zones: {domains: [corp.example]}")
	r.until(t, "a zone less", func() bool {
		st, err := zoneVerb[zoneStatusView](t, only, "status")
		return err == nil && len(st.Zones) == 1 && st.Zones[0].ID == corpZone && st.Zones[0].Listed
	})
}

func TestZoneUsage(t *testing.T) {
	t.Parallel()
	nobody := t.TempDir() + "/s.sock"
	for want, args := range map[string][]string{
		"nothing listens there":              {"plan", "--socket", nobody},
		"0 arguments: give one, the name":    {"explain"},
		"2 arguments: give one, the zone":    {"release", "a", "b"},
		`--output "x": use table or json`:    {"status", "-o", "x"},
		`"extra" is not one of its commands`: {"plan", "extra"},
	} {
		if _, err := execute(t, append([]string{"zone"}, args...)...); err == nil || !isUsage(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v gives %v, want %s", args, err, want)
		}
	}
	for line, want := range map[string]string{
		"kubeconfig: /nowhere/at/all":                          "/nowhere/at/all",
		"cloud: {region: r, pvtzEndpoint: 'http://a.example'}": "cloud.pvtzEndpoint",
		"cloud: {region: r, credentialFile: /nowhere/keys}":    "/nowhere/keys",
	} {
		text := leastPublisher + line
		if strings.HasPrefix(line, "cloud") {
			text = strings.Replace(text, "cloud: {region: cn-hangzhou}", "manifests: "+t.TempDir(), 1)
		}
		cfg, err := readPublisherConfig(writeConfig(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if err := runPublisher(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !isUsage(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %s", line, err, want)
		}
	}
	r := newPublishRig(t, nil)
	socket := r.start(t)
	if _, err := execute(t, "zone", "adopt", "--socket", socket); err == nil || !strings.Contains(err.Error(), "whose records") {
		t.Errorf("adopt of nothing: %v", err)
	}
}

// TestStandby: a replica that does not lead answers all questions, and changes nothing.
func TestStandby(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	if _, err := r.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: corpZone, RR: "cart", Type: "A", Value: "10.96.0.1", TTL: 60, Remark: externaldns.CCMRemark}); err != nil {
		t.Fatal(err)
	}
	p := &publisher{cfg: r.config(t), log: slog.New(slog.DiscardHandler), metrics: prometheus.NewRegistry(), source: newFakeTask("objects")}
	if err := p.buildCloud(); err != nil {
		t.Fatal(err)
	}
	wants, err := externaldns.NewWants(p.cfg.Names.rules())
	if err != nil {
		t.Fatal(err)
	}
	p.feed = &feed{wants: wants}
	cfg := p.cfg.syncer()
	cfg.Cloud, cfg.Desired, cfg.Leading = p.cloud, wants, make(chan bool)
	if p.syncer, err = externaldns.New(cfg); err != nil {
		t.Fatal(err)
	}
	if v, err := p.view(t.Context()); err != nil || len(v.Records(nil)) != 1 {
		t.Errorf("records: %v", err)
	}
	if v, err := p.explain(t.Context(), "Cart.corp.example."); err != nil || len(v.(explainView).Records) != 1 || v.(explainView).State != "another replica leads" {
		t.Errorf("explain: %+v, %v", v, err)
	}
	all := adoptRequest{CloudProvider: true, Unwanted: true}
	if v, err := p.adopt(t.Context(), all); err != nil || len(v.(adoptView).Writes) != 1 {
		t.Errorf("a plan to adopt: %+v, %v", v, err)
	}
	all.Apply = true
	if _, err := p.adopt(t.Context(), all); err == nil || !strings.Contains(err.Error(), "another replica leads") {
		t.Errorf("it adopts: %v", err)
	}
	if _, err := p.command(corpZone, p.syncer.Release); err == nil || !strings.Contains(err.Error(), "another replica leads") {
		t.Errorf("it releases: %v", err)
	}
	if r.writes() != 0 {
		t.Errorf("calls %v", r.Calls())
	}
}

// TestEventsOfProblems: a Problem becomes an Event on its object.
func TestEventsOfProblems(t *testing.T) {
	t.Parallel()
	var w warnings
	eventReporter{&w}.Report(externaldns.Problem{
		Object: externaldns.Object{Kind: "Ingress", Namespace: "shop", Name: "cart", UID: "u1"}, Reason: "NoZone", Message: "no zone",
	})
	want := warnings{{cluster.Object{Kind: "Ingress", Name: cluster.Name{Namespace: "shop", Name: "cart"}, UID: "u1"}, "NoZone", "no zone"}}
	if !slices.Equal(w, want) {
		t.Errorf("warnings %+v", w)
	}
}

type warned struct {
	about           cluster.Object
	reason, message string
}

type warnings []warned

func (w *warnings) Warn(about cluster.Object, reason, message string) {
	*w = append(*w, warned{about, reason, message})
}

// TestElection: one of two leads, and when it goes the other does.
func TestElection(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	stand := func() (*election, func()) {
		t.Helper()
		e, err := newElectionAt(client, leaseConfig{Namespace: "kube-system", Name: "l"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		task := &elected{task: newFakeTask("writer"), election: e}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- task.Run(ctx) }()
		return e, func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	first, resign := stand()
	if !<-first.leading {
		t.Fatal("the only one does not lead")
	}
	second, stop := stand()
	lease, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), "l", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != first.lock.Identity() {
		t.Errorf("lease %+v, %v", lease, err)
	}
	select {
	case <-second.leading:
		t.Error("two lead")
	default:
	}
	resign()
	resigned := time.Now()
	if !<-second.leading {
		t.Error("nobody leads")
	}
	if took := time.Since(resigned); took >= renewDeadline {
		t.Errorf("the Lease was not given back: it took %v", took)
	}
	stop()
}

// TestElectionWithoutAPI: a leader that cannot renew its Lease stops to lead, goes on, and leads again.
func TestElectionWithoutAPI(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var away atomic.Bool
		client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			return away.Load(), nil, errors.New("the API is away")
		})
		e, err := newElectionAt(client, leaseConfig{Namespace: "kube-system", Name: "l"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.run(ctx) }()
		if !<-e.leading {
			t.Fatal("the only one does not lead")
		}
		away.Store(true)
		lost := time.Now()
		select {
		case leads := <-e.leading:
			if leads {
				t.Error("it leads without an API")
			}
		case <-time.After(time.Hour):
			t.Fatal("it leads without an API for an hour")
		}
		if took := time.Since(lost); took >= leaseDuration {
			t.Errorf("it went on for %v, and another may lead after %v", took, leaseDuration)
		}
		away.Store(false)
		if !<-e.leading {
			t.Error("it does not lead again")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestReadinessDetail(t *testing.T) {
	t.Parallel()
	st := externaldns.Status{Leading: true, Synced: true, Discovered: true, Problems: []externaldns.Problem{
		{Object: externaldns.Object{Kind: "PrivateZone"}, Reason: "CloudRefused", Message: "no right"},
		{Object: externaldns.Object{Kind: "Service", Name: "x"}, Reason: "CloudRefused", Message: "of one record"},
		{Object: externaldns.Object{Kind: "PrivateZone", Name: "z"}, Reason: "DeletesHeld", Message: "held"},
	}}
	if got := refused(st); !slices.Equal(got, []string{"no right"}) {
		t.Errorf("refused %q", got)
	}
	waiting := refused(st)
	h := &health{metrics: prometheus.NewRegistry(), waiting: func() []string { return waiting }, detail: st.Detail}
	ask := func() (int, string) {
		w := httptest.NewRecorder()
		h.mux().ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		return w.Code, w.Body.String()
	}
	if code, text := ask(); code != 503 || !strings.HasPrefix(text, "not ready: no right\n3 problems") {
		t.Errorf("%d %s", code, text)
	}
	waiting = nil
	if code, text := ask(); code != 200 || !strings.HasPrefix(text, "ok\n3 problems") {
		t.Errorf("%d %s", code, text)
	}
}
