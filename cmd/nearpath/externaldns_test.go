package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

const (
	corpZone  = "0123456789abcdef0123456789abcdef"
	otherZone = "fedcba9876543210fedcba9876543210"
)

// A publishRig is a simulated cloud with its DNS, and a directory of manifests.
type publishRig struct {
	*sim.Cloud
	url, dns, dir string
}

func newPublishRig(t *testing.T, change func(*sim.Config)) *publishRig {
	t.Helper()
	cfg := sim.DefaultConfig()
	cfg.PrivateZone.Zones = []sim.NewZone{
		{ID: corpZone, Name: "corp.example", VPCs: []string{cfg.VPCID}}, {ID: otherZone, Name: "other.example", VPCs: []string{cfg.VPCID}},
	}
	if change != nil {
		change(&cfg)
	}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(cloud.Handler())
	names, err := cloud.PrivateZone().Resolver(cfg.VPCID).Listen(t.Context(), "dns", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- names.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		server.Close()
		_ = cloud.Close()
	})
	r := &publishRig{cloud, server.URL, names.Addr().String(), t.TempDir()}
	r.put(t, "namespace", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
	return r
}

// put replaces a manifest as one should: by renaming.
func (r *publishRig) put(t *testing.T, name, manifest string) {
	t.Helper()
	writeFile(t, filepath.Join(r.dir, "."+name), manifest)
	if err := os.Rename(filepath.Join(r.dir, "."+name), filepath.Join(r.dir, name+".yaml")); err != nil {
		t.Fatal(err)
	}
}

func (r *publishRig) remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(r.dir, name+".yaml")); err != nil {
		t.Fatal(err)
	}
}

// serviceAt is a Service that asks for a name of its cluster IP.
func serviceAt(name, host, ip string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop, annotations: {external-dns.alpha.kubernetes.io/internal-hostname: %q}}
spec: {clusterIP: %s, clusterIPs: [%[3]s], ports: [{port: 80}]}
`, name, host, ip)
}

// config reaches the simulated cloud. Lines replace those with their key.
func (r *publishRig) config(t *testing.T, lines ...string) publisherConfig {
	t.Helper()
	cfg, err := readPublisherConfig(writeConfig(t, r.configText(t, lines...)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func (r *publishRig) configText(t *testing.T, lines ...string) string {
	t.Helper()
	text := map[string]string{}
	for _, line := range append([]string{
		"ownerID: prod", "policy: sync", "manifests: " + r.dir, "socket: " + filepath.Join(t.TempDir(), "s.sock"), "listen: 127.0.0.1:0",
		"hintInterval: 1s", "names: {sources: [service]}",
		fmt.Sprintf("cloud: {region: %s, pvtzEndpoint: %s, accessKeyID: %s, accessKeySecret: %s}", sim.DefaultRegion, r.url, sim.DefaultAccessKey, sim.DefaultAccessSecret),
	}, lines...) {
		key, _, _ := strings.Cut(line, ":")
		text[key] = line
	}
	var whole strings.Builder
	for _, line := range text {
		fmt.Fprintln(&whole, line)
	}
	return whole.String()
}

// start runs a syncer until the test ends and returns its socket.
func (r *publishRig) start(t *testing.T, lines ...string) (socket string) {
	t.Helper()
	socket, _ = r.run(t, lines...)
	return socket
}

// run does, too, and also returns what ends it earlier.
func (r *publishRig) run(t *testing.T, lines ...string) (socket string, end func()) {
	t.Helper()
	cfg := r.config(t, lines...)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runPublisher(ctx, cfg, slog.New(slog.DiscardHandler)) }()
	end = sync.OnceFunc(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the syncer ended with %v", err)
		}
	})
	t.Cleanup(end)
	r.until(t, "the socket", func() bool { _, err := os.Lstat(cfg.Socket); return err == nil })
	return cfg.Socket, end
}

// until waits for a condition, as long as a busy machine may take for 10,000 records.
func (r *publishRig) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for started := time.Now(); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Since(started) > 5*time.Minute {
			records := r.PrivateZone().Records(corpZone)
			t.Fatalf("not within five minutes: %s; there are %d records, the first %+v", what, len(records), records[:min(len(records), 20)])
		}
	}
}

// resolves asks the DNS of the VPC; no addresses means that the name does not exist.
func (r *publishRig) resolves(t *testing.T, name string, addrs ...string) bool {
	t.Helper()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, r.dns)
	}}
	got, _ := resolver.LookupHost(t.Context(), name+".")
	return slices.Equal(got, addrs)
}

// writes counts calls that change something.
func (r *publishRig) writes() (n int) {
	calls := r.Calls()
	return calls["AddZoneRecord"] + calls["UpdateZoneRecord"] + calls["DeleteZoneRecord"] + calls["UpdateRecordRemark"]
}

// zoneVerb runs a verb and decodes its answer.
func zoneVerb[T any](t *testing.T, socket string, args ...string) (v T, err error) {
	t.Helper()
	out, err := execute(t, append([]string{"zone", "--socket", socket, "-o", "json"}, args...)...)
	line, _, _ := strings.Cut(out, "\n")
	if jsonErr := json.Unmarshal([]byte(line), &v); jsonErr != nil && err == nil {
		t.Fatalf("%v: %q, %v", args, out, jsonErr)
	}
	return v, err
}

// TestServiceIsPublished: a name comes, changes and goes with its Service, one call each, and nothing of others changes.
func TestServiceIsPublished(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, func(c *sim.Config) { c.Policies = map[string][]string{sim.DefaultAccessKey: documentedRights(t)} })
	foreign, err := r.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: corpZone, RR: "www", Type: "A", Value: "10.9.9.9", TTL: 60, Remark: "by-hand"})
	if err != nil {
		t.Fatal(err)
	}
	before := r.PrivateZone().Records(corpZone)
	socket := r.start(t)

	for _, step := range []struct {
		what   string
		change func()
		addrs  []string
		action string
	}{
		{"appears", func() { r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.1")) }, []string{"10.96.0.1"}, "AddZoneRecord"},
		{"changes", func() { r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.2")) }, []string{"10.96.0.2"}, "UpdateZoneRecord"},
		{"goes", func() { r.remove(t, "cart") }, nil, "DeleteZoneRecord"},
	} {
		calls, writes := r.Calls()[step.action], r.writes()
		step.change()
		r.until(t, "a Service that "+step.what, func() bool { return r.resolves(t, "cart.corp.example", step.addrs...) })
		r.until(t, "rest", func() bool {
			st, err := zoneVerb[zoneStatusView](t, socket, "status")
			return err == nil && st.Pending["fresh"]+st.Pending["dead"] == 0
		})
		if r.Calls()[step.action] != calls+1 || r.writes() != writes+1 {
			t.Errorf("a Service that %s took %v", step.what, r.Calls())
		}
	}
	if after := r.PrivateZone().Records(corpZone); !slices.Equal(before, after) || after[0].ID != foreign {
		t.Errorf("the zone was %+v and is %+v", before, after)
	}
}

// TestNothingGoesBeforeObjectsAreKnown: a start without objects is no reason to delete.
func TestNothingGoesBeforeObjectsAreKnown(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	if _, err := r.PrivateZone().Add(aliyun.ZoneRecord{
		ZoneID: corpZone, RR: "cart", Type: "A", Value: "10.96.0.1", TTL: 60,
		Remark: externaldns.Owner("prod").Remark(externaldns.Object{Kind: "Service", Namespace: "shop", Name: "cart"}),
	}); err != nil {
		t.Fatal(err)
	}
	r.put(t, "namespace", "this is no manifest")
	socket := r.start(t)
	r.until(t, "listed zones", func() bool {
		st, err := zoneVerb[zoneStatusView](t, socket, "status")
		return err == nil && !st.Synced && len(st.Zones) == 2 && st.Zones[0].Listed && st.Zones[1].Listed && st.Zones[0].Owned == 1
	})
	if _, err := zoneVerb[planView](t, socket, "plan"); err == nil || !strings.Contains(err.Error(), "objects are not known yet") {
		t.Errorf("a plan without objects: %v", err)
	}
	r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.1")) // not read yet, as the directory is at fault
	r.put(t, "namespace", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
	r.until(t, "rest", func() bool {
		audit, err := zoneVerb[auditView](t, socket, "audit")
		return err == nil && audit.Clean && audit.Zones[0].OK == 1
	})
	if r.writes() != 0 {
		t.Errorf("calls %v", r.Calls())
	}
}

// documentedRights are the actions of the documentation's RAM policy.
func documentedRights(t *testing.T) (actions []string) {
	t.Helper()
	var policy struct {
		Statement []struct{ Action []string }
	}
	if err := json.Unmarshal([]byte(fenced(t, "json")), &policy); err != nil {
		t.Fatal(err)
	}
	for _, s := range policy.Statement {
		actions = append(actions, s.Action...)
	}
	return actions
}

func TestTwoSyncersConverge(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	for i := range 20 {
		name := fmt.Sprint("web-", i)
		r.put(t, name, serviceAt(name, name+".corp.example", fmt.Sprint("10.96.0.", i+1)))
	}
	a, b := r.start(t), r.start(t)
	r.until(t, "all records", func() bool { return len(r.PrivateZone().Records(corpZone)) == 20 })
	r.remove(t, "web-7")
	r.put(t, "web-8", serviceAt("web-8", "web-8.corp.example", "10.96.1.8"))
	r.until(t, "the change", func() bool {
		return r.resolves(t, "web-7.corp.example") && r.resolves(t, "web-8.corp.example", "10.96.1.8")
	})
	for _, socket := range []string{a, b} {
		r.until(t, "an audit without findings", func() bool {
			audit, err := zoneVerb[auditView](t, socket, "audit")
			return err == nil && audit.Clean && audit.Zones[0].OK == 19
		})
	}
	if n := len(r.PrivateZone().Records(corpZone)); n != 19 {
		t.Errorf("%d records", n)
	}
}

// TestWrongConfiguration: each mistake is one clear problem, and what can be published is.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	key := func(id, secret string, r *publishRig) string {
		return fmt.Sprintf("cloud: {region: %s, pvtzEndpoint: %s, accessKeyID: %s, accessKeySecret: %s}", sim.DefaultRegion, r.url, id, secret)
	}
	for name, tt := range map[string]struct {
		line      func(*publishRig) string
		fault     *sim.Fault
		published bool
		problem   string
	}{
		"wrong zone":  {line: func(*publishRig) string { return "zones: {ids: [" + corpZone + ", nowhere]}" }, published: true, problem: `ZoneNotFound: zone "nowhere" does not exist`},
		"wrong key":   {line: func(r *publishRig) string { return key("LTAI-unknown", "x", r) }, problem: "CloudRefused"},
		"wrong value": {line: func(r *publishRig) string { return key(sim.DefaultAccessKey, "x", r) }, problem: "SignatureDoesNotMatch"},
		"no credentials": {line: func(r *publishRig) string {
			return fmt.Sprintf("cloud: {region: %s, pvtzEndpoint: %s, metadata: %s/nowhere}", sim.DefaultRegion, r.url, r.url)
		}, problem: "credentials"},
		"expired token": {fault: &sim.Fault{Times: -1, Code: "InvalidSecurityToken.Expired", Message: "Specified SecurityToken is expired."}, problem: "InvalidSecurityToken.Expired"},
		"no right":      {line: func(*publishRig) string { return "zones: {ids: [" + corpZone + "]}" }, fault: &sim.Fault{Action: "DescribeZoneRecords", Times: -1, Code: "NoPermission", Message: "No permission."}, problem: "NoPermission"},
		"unbound zone": {line: func(r *publishRig) string {
			_ = r.PrivateZone().Bind(otherZone)
			return "zones: {ids: [" + corpZone + ", " + otherZone + "]}"
		}, published: true, problem: "bound to no VPC"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newPublishRig(t, nil)
			r.put(t, "cart", serviceAt("cart", "cart.corp.example", "10.96.0.1"))
			var lines []string
			if tt.line != nil {
				lines = append(lines, tt.line(r))
			}
			if tt.fault != nil {
				fault := r.Inject(*tt.fault)
				defer func() { // and once the cloud does not refuse any more, everything is as it should be
					fault.Remove()
					r.until(t, "the name", func() bool { return r.resolves(t, "cart.corp.example", "10.96.0.1") })
				}()
			}
			socket := r.start(t, lines...)
			var said []string
			r.until(t, "the problem", func() bool {
				st, err := zoneVerb[zoneStatusView](t, socket, "status")
				if err != nil {
					t.Fatal(err)
				}
				said = nil
				for _, p := range st.Problems {
					said = append(said, p.Reason+": "+p.Message)
				}
				return strings.Contains(strings.Join(said, "\n"), tt.problem)
			})
			if len(said) != 1 {
				t.Errorf("%d problems for one mistake: %s", len(said), strings.Join(said, "\n"))
			}
			t.Log(said[0])
			if tt.published {
				r.until(t, "the name", func() bool { return r.resolves(t, "cart.corp.example", "10.96.0.1") })
			}
		})
	}
}

// TestWrongObjects: what cannot be published of some objects is told, and all the others are published.
func TestWrongObjects(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	r.put(t, "bad-name", serviceAt("bad-name", "cart!.corp.example", "10.96.0.1"))
	r.put(t, "no-zone", serviceAt("no-zone", "cart.elsewhere.example", "10.96.0.2"))
	r.put(t, "odd-ttl", strings.Replace(serviceAt("odd-ttl", "ttl.corp.example", "10.96.0.3"), "annotations: {", "annotations: {external-dns.kubernetes.io/ttl: '300', ", 1))
	r.put(t, "good", serviceAt("good", "good.corp.example", "10.96.0.4"))
	socket := r.start(t)
	r.until(t, "the good names", func() bool {
		return r.resolves(t, "good.corp.example", "10.96.0.4") && r.resolves(t, "ttl.corp.example", "10.96.0.3")
	})
	want := []string{"Service/shop/bad-name InvalidName", "Service/shop/no-zone NoZone", "Service/shop/odd-ttl TTLAdjusted"}
	r.until(t, "the problems", func() bool {
		st, err := zoneVerb[zoneStatusView](t, socket, "status")
		var got []string
		for _, p := range st.Problems {
			got = append(got, p.Object+" "+p.Reason)
		}
		slices.Sort(got)
		return err == nil && slices.Equal(got, want)
	})
	for name, says := range map[string]string{
		"cart.elsewhere.example": "NoZone", "ttl.corp.example": "TTLAdjusted", "cart!.corp.example": "InvalidName", "good.corp.example": "now: nothing to do",
	} {
		r.until(t, "explain "+name+" with "+says, func() bool {
			out, err := execute(t, "zone", "explain", name, "--socket", socket)
			return err == nil && strings.Contains(out, says)
		})
	}
	for _, record := range r.PrivateZone().Records(corpZone) {
		if record.RR == "ttl" && record.TTL != 60 {
			t.Errorf("the odd TTL became %d", record.TTL)
		}
	}
}
