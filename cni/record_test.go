package cni

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func recordOfEverything() record {
	return record{
		Key: Key{"net", "c1", "eth0"}, Pod: PodRef{"default", "a", "u-1", "c1"}, NetNS: "/run/netns/a", Inode: 4026532000,
		Datapath: IPVlan, Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}, Slot: 2,
		MAC: "00:16:3e:01:02:03", MTU: 1400, Limits: Limits{1e6, 2e6},
		HostPorts: []HostPort{{HostPort: 80, ContainerPort: 8080, Protocol: 6}, {netip.MustParseAddr("10.8.0.2"), 53, 53, 17}},
		Scope:     DNSScope{[]string{"10.0.0.10"}, []string{"svc"}, []string{"ndots:5"}}, Parent: "eth1", Companion: "npc2",
		Node: []netip.Addr{netip.MustParseAddr("10.8.0.2")}, Networks: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")},
		Cookie: 1 << 60, Link: 7, ENI: 8, Side: 9,
	}
}

func TestRecord(t *testing.T) {
	d := records(filepath.Join(t.TempDir(), "pods"))
	want := recordOfEverything()
	for range 2 { // a record replaces the one before
		if err := d.write(want); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := d.read(want.Key)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || !ok || err != nil {
		t.Errorf("%v, %v\n%s", ok, err, diff)
	}
	if info, err := os.Stat(d.path(want.Key)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	other := want
	other.Key.ContainerID = "c2"
	if err := d.write(other); err != nil {
		t.Fatal(err)
	}
	breakRecord(t, d, other.Key)
	all, err := d.list()
	if len(all) != 1 || all[0].Key != want.Key || err == nil {
		t.Errorf("with a broken one: %d records, %v", len(all), err)
	}
	for _, k := range []Key{want.Key, want.Key, other.Key} {
		if err := d.remove(k); err != nil {
			t.Error(err)
		}
	}
	if _, ok, err := d.read(want.Key); ok || err != nil {
		t.Errorf("after its removal: %v, %v", ok, err)
	}
	if all, err := d.list(); len(all) != 0 || err != nil {
		t.Errorf("after all removals: %v, %v", all, err)
	}
}

// Without a directory nothing is kept, and nothing is an error.
func TestNoRecords(t *testing.T) {
	var none records
	want := recordOfEverything()
	if err := none.write(want); err != nil {
		t.Error(err)
	}
	if _, ok, err := none.read(want.Key); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if all, err := none.list(); all != nil || err != nil {
		t.Errorf("%v, %v", all, err)
	}
	if err := none.remove(want.Key); err != nil {
		t.Error(err)
	}
}

func TestRecordErrors(t *testing.T) {
	good := recordOfEverything()
	name := filepath.Base(records("/").path(good.Key))
	for what, tt := range map[string]struct {
		change func(*record)
		want   string
	}{
		"container":     {func(r *record) { r.Key.ContainerID = "../x" }, "containerID"},
		"network":       {func(r *record) { r.Key.Network = "a/b" }, "network name"},
		"interface":     {func(r *record) { r.Key.IfName = "a b" }, "interface name"},
		"relative path": {func(r *record) { r.NetNS = "netns/a" }, `netns is "netns/a"`},
		"datapath":      {func(r *record) { r.Datapath = "vlan" }, `datapath is "vlan"`},
		"no address":    {func(r *record) { r.Addrs = nil }, "addresses are []"},
		"zero address":  {func(r *record) { r.Addrs[0] = netip.Addr{} }, "addresses are"},
		"MAC address":   {func(r *record) { r.MAC = "" }, "invalid MAC"},
		"parent":        {func(r *record) { r.Parent = "" }, `parent is ""`},
		"another's":     {func(r *record) { r.Key.ContainerID = "c2" }, "its name does not follow"},
	} {
		r := recordOfEverything()
		tt.change(&r)
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRecord(body, name); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", what, err, tt.want)
		}
	}
	body, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	for what, changed := range map[string][]byte{
		"cut off":       body[:len(body)-1],
		"more after it": append(bytes.Clone(body), '{', '}'),
		"too long":      append(bytes.Clone(body), bytes.Repeat([]byte{' '}, maxRecordBytes)...),
	} {
		if _, err := parseRecord(changed, name); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// An agent that is older than the one before reads what it knows.
func TestRecordOfNewerAgent(t *testing.T) {
	want := recordOfEverything()
	body, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	body = append([]byte(`{"invented":{"later":[1]},`), body[1:]...)
	got, err := parseRecord(body, filepath.Base(records("/").path(want.Key)))
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

// breakRecord leaves half of a record, as no crash can: it is renamed when it is whole.
func breakRecord(t *testing.T, d records, k Key) {
	t.Helper()
	body, err := os.ReadFile(d.path(k))
	if err == nil {
		err = os.WriteFile(d.path(k), body[:len(body)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzParseRecord(f *testing.F) {
	body, err := json.Marshal(recordOfEverything())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"key":{"network":"n","containerID":"c","ifName":"eth0"},"netns":"/x","datapath":"veth","addrs":["10.0.0.1"]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var loose record
		_ = json.Unmarshal(body, &loose) // whatever can be read of it names the file
		r, err := parseRecord(body, filepath.Base(records("/").path(loose.Key)))
		if err != nil {
			return
		}
		if strings.ContainsAny(r.Key.ContainerID+r.Key.IfName+r.Key.Network+r.Parent+r.Companion, "/\x00 ") || !filepath.IsAbs(r.NetNS) {
			t.Fatalf("passed: %+v", r)
		}
		if w := r.wiring(Lease{Addrs: r.Addrs, MAC: r.MAC}); w.Datapath != Veth && w.eniMAC() == nil {
			t.Fatalf("no MAC address: %+v", r)
		}
	})
}
