//go:build cluster

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

const namesZone = "corp.example"

// namesConfig is a syncer's, but for what differs between replicas.
const namesConfig = `ownerID: e2e
policy: sync
listen: 127.0.0.1:0
hintInterval: 1s
cloud: {region: %s, pvtzEndpoint: "http://%s", insecureHTTP: true}
names: {sources: [service, pod, ingress]}
leaderElection: {enabled: true}
`

// A replica is a syncer on a node, with the rights that the documentation gives it.
type replica struct {
	*rig
	socket  string
	log     string
	process *netlab.Process
}

// syncerRights are the manifests of the documentation, with nothing that they leave out.
func syncerRights(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/externaldns.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n```yaml\napiVersion: v1\nkind: ServiceAccount\n")
	manifests, _, ended := strings.Cut(rest, "\n```\n")
	if !found || !ended {
		t.Fatal("the documentation has no rights for the syncer")
	}
	return "apiVersion: v1\nkind: ServiceAccount\n" + manifests
}

// startReplica starts a syncer on n1 as its ServiceAccount.
func (r *rig) startReplica(t *testing.T, name string) *replica {
	t.Helper()
	dir := t.TempDir()
	token := r.Kubectl(t, "create", "token", "-n", "kube-system", "nearpath-externaldns")
	kubeconfig, config := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "config.yaml")
	s := &replica{rig: r, socket: filepath.Join(dir, "sock"), log: filepath.Join(dir, "log")}
	for path, text := range map[string]string{
		kubeconfig: fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s", certificate-authority: %s}}]
users: [{name: syncer, user: {token: %s}}]
contexts: [{name: lab, context: {cluster: lab, user: syncer}}]
current-context: lab
`, r.APIAddress(), r.CAFile(), strings.TrimSpace(token)),
		config: fmt.Sprintf(namesConfig, sim.DefaultRegion, sim.MetadataAddr) + "kubeconfig: " + kubeconfig + "\nsocket: " + s.socket + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := r.Node(t, "n1").Command(context.Background(), filepath.Join(r.bin, "nearpath"), "externaldns", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	if s.process, err = r.Lab().Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop(t)
		if text, err := os.ReadFile(s.log); err == nil && t.Failed() {
			t.Logf("syncer %s logged at the end:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return s
}

// stop ends it as a rolling update does. What entered the node waits for the syncer, its only child.
func (s *replica) stop(t *testing.T) {
	t.Helper()
	select {
	case <-s.process.Done():
		return
	default:
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.process.PID()))
	if err != nil {
		t.Error(err)
	}
	for child := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(child)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			t.Error(err)
		}
	}
	<-s.process.Done()
}

// A zoneState is as much of what the verb status shows as is looked at.
type zoneState struct {
	Leading, Synced bool
	Zones           []struct{ Listed bool }
}

func (s *replica) state(ctx context.Context) (st zoneState, err error) {
	out, err := s.rig.Nodes()[0].Command(ctx, filepath.Join(s.bin, "nearpath"), "zone", "status", "--socket", s.socket, "-o", "json").CombinedOutput()
	if err != nil {
		return st, errors.New(string(out))
	}
	return st, json.Unmarshal(out, &st)
}

// is waits until the verb status shows what is looked for.
func (s *replica) is(t *testing.T, what string, so func(zoneState) bool) {
	t.Helper()
	s.Wait(t, what, func(ctx context.Context) error {
		st, err := s.state(ctx)
		if err == nil && !so(st) {
			err = fmt.Errorf("it is %+v", st)
		}
		return err
	})
}

func (st zoneState) listed() bool { return len(st.Zones) == 1 && st.Zones[0].Listed }

// published waits until the zone holds exactly these records.
func (r *rig) published(t *testing.T, zone string, want ...string) {
	t.Helper()
	slices.Sort(want)
	r.Wait(t, "the zone to hold "+strings.Join(want, ", "), func(context.Context) error {
		var got []string
		for _, record := range r.cloud.Sim().PrivateZone().Records(zone) {
			got = append(got, record.RR+" "+record.Value)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it holds %q", got)
		}
		return nil
	})
}

// checkNames publishes names of the cluster in PrivateZone by two replicas with exactly the documented rights, and takes these
// away.
func (r *rig) checkNames(t *testing.T) {
	t.Helper()
	zone, err := r.cloud.Sim().PrivateZone().AddZone(sim.NewZone{Name: namesZone, VPCs: []string{sim.DefaultVPC}})
	if err != nil {
		t.Fatal(err)
	}
	rights := syncerRights(t)
	r.Apply(t, rights)
	first, second := r.startReplica(t, "first"), r.startReplica(t, "second")
	for _, s := range []*replica{first, second} {
		s.is(t, "objects to be known", func(st zoneState) bool { return st.Synced })
	}
	r.Wait(t, "a leader", func(ctx context.Context) error {
		a, err := first.state(ctx)
		b, err2 := second.state(ctx)
		if err := cmp.Or(err, err2); err != nil || a.Leading == b.Leading {
			return fmt.Errorf("they lead: %v, %v: %w", a.Leading, b.Leading, err)
		}
		if b.Leading {
			first, second = second, first
		}
		return nil
	})
	var svc struct{ Spec struct{ ClusterIP string } }
	r.Get(t, "service/shop/web", &svc)
	pod := r.Pod(t, "shop/client-n2").Status.PodIP
	const annotation = "external-dns.alpha.kubernetes.io/internal-hostname="
	r.Kubectl(t, "annotate", "-n", "shop", "service/web", annotation+"web."+namesZone)
	r.Kubectl(t, "annotate", "-n", "shop", "pod/client-n2", annotation+"client."+namesZone)
	r.published(t, zone, "web "+svc.Spec.ClusterIP, "client "+pod)
	calls := r.cloud.Sim().Calls()
	if calls["AddZoneRecord"] != 2 || calls["UpdateZoneRecord"]+calls["DeleteZoneRecord"] > 0 {
		t.Errorf("two names took %v", calls)
	}

	first.stop(t)
	second.is(t, "the other replica to lead", func(st zoneState) bool { return st.Leading && st.listed() })
	r.Kubectl(t, "annotate", "-n", "shop", "pod/client-n2", annotation[:len(annotation)-1]+"-")
	r.published(t, zone, "web "+svc.Spec.ClusterIP)

	// Without rights whoever starts knows no objects, and nothing is deleted.
	second.stop(t)
	r.Kubectl(t, "delete", "clusterrolebinding", "nearpath-externaldns")
	blind := r.startReplica(t, "without rights")
	blind.is(t, "a leader that has the zone and no objects", func(st zoneState) bool { return st.Leading && st.listed() && !st.Synced })
	r.published(t, zone, "web "+svc.Spec.ClusterIP)
	if n := r.cloud.Sim().Calls()["DeleteZoneRecord"]; n != 1 {
		t.Errorf("%d deletes, want the pod's", n)
	}
	r.Apply(t, rights)
	r.Kubectl(t, "annotate", "-n", "shop", "service/catalog", annotation+"catalog."+namesZone)
	r.Get(t, "service/shop/catalog", &svc)
	catalog := svc.Spec.ClusterIP
	r.Get(t, "service/shop/web", &svc)
	r.published(t, zone, "web "+svc.Spec.ClusterIP, "catalog "+catalog)
}
