package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/test/kubeapi"
)

// An apiRig has a Kubernetes API instead of a directory of manifests.
type apiRig struct {
	*publishRig
	api        *kubeapi.Server
	kubeconfig string
}

func newAPIRig(t *testing.T) *apiRig {
	t.Helper()
	r := &apiRig{publishRig: newPublishRig(t, nil), api: kubeapi.New()}
	server := httptest.NewServer(r.api)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	r.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, r.kubeconfig, fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}]}`, server.URL))
	return r
}

func (r *apiRig) start(t *testing.T, lines ...string) (socket string) {
	t.Helper()
	return r.publishRig.start(t, append([]string{"manifests: ''", "kubeconfig: " + r.kubeconfig}, lines...)...)
}

// serve puts a Service that asks for its name, or as further annotations say.
func (r *apiRig) serve(t *testing.T, name, ip string, pairs ...string) {
	t.Helper()
	annotations := map[string]string{"external-dns.kubernetes.io/internal-hostname": name + ".corp.example"}
	for i := 0; i < len(pairs); i += 2 {
		annotations[pairs[i]] = pairs[i+1]
	}
	if err := r.api.Put(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: annotations},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: 80}}},
	}); err != nil {
		t.Fatal(err)
	}
}

// settled waits until a syncer has nothing to do and everything is as wanted, with so many records.
func (r *apiRig) settled(t *testing.T, socket string, records int) {
	t.Helper()
	r.until(t, "an audit without findings", func() bool {
		audit, err := zoneVerb[auditView](t, socket, "audit")
		return err == nil && audit.Clean && slices.ContainsFunc(audit.Zones, func(z auditZoneView) bool { return z.ID == corpZone && z.OK == records })
	})
}

// TestLostRights: a source that may not be read any more is no empty source. Nothing is deleted, neither by who runs then
// nor by who starts then; and what can be read again counts again.
func TestLostRights(t *testing.T) {
	t.Parallel()
	r := newAPIRig(t)
	const services = 30
	for i := range services {
		r.serve(t, fmt.Sprint("web-", i), fmt.Sprint("10.96.0.", i+1))
	}
	running, end := r.run(t, "manifests: ''", "kubeconfig: "+r.kubeconfig)
	r.settled(t, running, services)
	writes := r.writes()

	r.api.Refuse(func(_, resource string) bool { return resource == "services" })
	starting := r.start(t)
	refused := r.api.Refused()
	r.until(t, "lists that are refused to both", func() bool { return r.api.Refused() >= refused+4 })
	r.until(t, "zones listed without objects", func() bool {
		st, err := zoneVerb[zoneStatusView](t, starting, "status")
		return err == nil && !st.Synced && len(st.Zones) == 2 && st.Zones[0].Listed && st.Zones[1].Listed
	})
	if plan, err := zoneVerb[planView](t, running, "plan"); err != nil || len(plan.Writes) > 0 {
		t.Errorf("the one that runs plans %+v, %v", plan.Writes, err)
	}
	if _, err := zoneVerb[planView](t, starting, "plan"); err == nil || !strings.Contains(err.Error(), "objects are not known yet") {
		t.Errorf("the one that starts plans without objects: %v", err)
	}
	if n := r.writes(); n != writes {
		t.Errorf("%d writes while Services could not be listed: %v", n-writes, r.Calls())
	}
	t.Logf("%d refused requests, %d deletes", r.api.Refused(), r.Calls()["DeleteZoneRecord"])

	// Of two without an election one may hear of a Service later than of its record.
	end()
	r.serve(t, "more", "10.96.1.1")
	r.api.Refuse(nil)
	r.settled(t, starting, services+1)
	if n := r.Calls()["DeleteZoneRecord"]; n > 0 {
		t.Errorf("%d deletes", n)
	}
}

// TestReplicas: of two replicas one writes, and when it goes the other goes on. Every change costs one call.
func TestReplicas(t *testing.T) {
	t.Parallel()
	r := newAPIRig(t)
	for i := range 20 {
		r.serve(t, fmt.Sprint("web-", i), fmt.Sprint("10.96.0.", i+1))
	}
	const elected = "leaderElection: {enabled: true}"
	first, stop := r.run(t, "manifests: ''", "kubeconfig: "+r.kubeconfig, elected)
	leads := func(socket string) bool {
		st, err := zoneVerb[zoneStatusView](t, socket, "status")
		return err == nil && st.Leading
	}
	r.until(t, "a leader", func() bool { return leads(first) })
	second := r.start(t, elected)
	r.settled(t, first, 20)
	r.serve(t, "more", "10.96.1.1")
	r.settled(t, first, 21)
	r.settled(t, second, 21) // a standby answers, too
	if leads(second) || r.writes() != 21 || r.holder(t) == "" {
		t.Errorf("two of them lead: %v; %d writes for 21 Services; the Lease is held by %q", leads(second), r.writes(), r.holder(t))
	}
	before := r.holder(t)
	stop()
	r.serve(t, "later", "10.96.1.2")
	if err := r.api.Delete("Service", "shop", "web-3"); err != nil {
		t.Fatal(err)
	}
	r.until(t, "the other one to lead", func() bool { return leads(second) })
	r.settled(t, second, 21)
	if after := r.holder(t); r.writes() != 23 || after == before || after == "" {
		t.Errorf("%d writes for 23 changes; the Lease was held by %q and is by %q", r.writes(), before, after)
	}
}

// holder is who holds the Lease.
func (r *apiRig) holder(t *testing.T) string {
	t.Helper()
	for _, text := range r.api.All("Lease") {
		var lease coordinationv1.Lease
		if err := json.Unmarshal(text, &lease); err != nil {
			t.Fatal(err)
		}
		if lease.Spec.HolderIdentity != nil {
			return *lease.Spec.HolderIdentity
		}
	}
	return ""
}

// TestEventsReachTheAPI: what cannot be done as asked is one Event on the object that asks.
func TestEventsReachTheAPI(t *testing.T) {
	t.Parallel()
	r := newAPIRig(t)
	r.serve(t, "good", "10.96.0.1")
	r.serve(t, "odd", "10.96.0.2", "external-dns.alpha.kubernetes.io/ttl", "300")
	r.serve(t, "lost", "10.96.0.3", "external-dns.kubernetes.io/internal-hostname", "lost.nowhere.example")
	socket := r.start(t)
	want := []string{"Service/shop/lost NoZone", "Service/shop/odd TTLAdjusted"}
	events := func() (list []string) {
		for _, text := range r.api.All("Event") {
			var e corev1.Event
			if err := json.Unmarshal(text, &e); err != nil {
				t.Fatal(err)
			}
			list = append(list, fmt.Sprintf("%s/%s/%s %s", e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name, e.Reason))
		}
		slices.Sort(list)
		return list
	}
	r.until(t, "the events", func() bool { return len(events()) >= len(want) })
	r.until(t, "the good names", func() bool {
		return r.resolves(t, "good.corp.example", "10.96.0.1") && r.resolves(t, "odd.corp.example", "10.96.0.2")
	})
	if _, err := zoneVerb[auditView](t, socket, "audit"); err == nil {
		t.Error("an audit finds nothing missing of a name without a zone")
	}
	if got := events(); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}
