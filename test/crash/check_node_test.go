//go:build node

package crash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/hostnet"
)

// What "nearpath get -o json" shows, as far as it is looked at.
type (
	eniView struct {
		ID, State string
		Slot      int
		Addresses []netip.Addr
	}
	podView struct {
		ContainerID string
		Addresses   []netip.Addr
	}
)

// check waits until agent, cloud and kernel agree with each other and with what the runtime knows, and then looks at
// every pod.
func (r *rig) check(t *testing.T) {
	t.Helper()
	await(t, patience, "agent, cloud and kernel to agree", func() error { return r.agree(t.Context()) })
	pods := r.books.pods()
	for i, p := range pods {
		next := pods[(i+1)%len(pods)]
		_, checkErr := r.cni(t.Context(), "CHECK", p.container, p.sandbox.NetNSPath(), map[string]any{"prevResult": p.result})
		err := errors.Join(
			checkErr,
			hasAddress(p),
			reaches(r.machine.NetNS, p.netns, p.addr),
			reaches(p.netns, r.machine.NetNS, r.machine.Addr),
			reaches(p.netns, r.peer.NetNS, r.peer.Addr),
		)
		if next != p {
			err = errors.Join(err, reaches(p.netns, next.netns, next.addr))
		}
		if err != nil {
			t.Errorf("pod %s at %s: %v", p.container, p.addr, err)
		}
	}
	for _, fault := range slices.Concat(r.gate.verdict(), r.books.verdict()) {
		t.Error(fault)
	}
	r.checkForeign(t)
	if t.Failed() {
		t.FailNow()
	}
}

// checkForeign looks at the ENIs that are not the pool's.
func (r *rig) checkForeign(t *testing.T) {
	t.Helper()
	var now []aliyun.ENI
	for _, e := range r.cloud.Sim().ENIs() {
		if e.Tags[tagInstance] != r.machine.ID {
			now = append(now, e)
		}
	}
	if !reflect.DeepEqual(now, r.theirs) {
		t.Errorf("ENIs that are not the pool's were %+v and are %+v", r.theirs, now)
	}
}

// agree says what differs between the cloud, the agent, the kernel and the runtime. It may be that the agent is at work.
func (r *rig) agree(ctx context.Context) error {
	var enis []eniView
	var pods []podView
	if err := errors.Join(r.api.Get(ctx, "/v1/enis", &enis), r.api.Get(ctx, "/v1/pods", &pods)); err != nil {
		return err
	}
	leases := map[string]netip.Addr{}
	for _, p := range pods {
		leases[p.ContainerID] = p.Addresses[0]
	}
	want := map[string]netip.Addr{}
	for _, p := range r.books.pods() {
		want[p.container] = p.addr
	}
	if !maps.Equal(leases, want) {
		return fmt.Errorf("the agent leases %v, the runtime has %v", leases, want)
	}
	if err := sameENIs(enis, r.gate.ours(), r.machine.ID); err != nil {
		return err
	}
	return r.wired(enis)
}

// sameENIs compares the pool with the cloud: every ENI and every address that exists is in the books of the pool, and
// the other way round.
func sameENIs(views []eniView, cloud []aliyun.ENI, instance string) error {
	for _, e := range cloud {
		if e.Status != aliyun.StatusInUse || e.InstanceID != instance {
			return fmt.Errorf("the cloud has %s, %s at %q", e.ID, e.Status, e.InstanceID)
		}
		i := slices.IndexFunc(views, func(v eniView) bool { return v.ID == e.ID })
		if i < 0 {
			return fmt.Errorf("the pool does not have %s", e.ID)
		}
		if views[i].State != "in-use" {
			return fmt.Errorf("the pool has %s %s", e.ID, views[i].State)
		}
		have, want := slices.SortedFunc(slices.Values(views[i].Addresses), netip.Addr.Compare), slices.SortedFunc(slices.Values(e.PrivateIPs), netip.Addr.Compare)
		if !slices.Equal(have, want) {
			return fmt.Errorf("the pool has %v on %s, the cloud has %v", have, e.ID, want)
		}
	}
	if len(views) != len(cloud) {
		return fmt.Errorf("the pool has %v, the cloud has %d ENIs", views, len(cloud))
	}
	return nil
}

// wired compares the node's kernel with what the live pods need.
func (r *rig) wired(enis []eniView) error {
	want := wiring{links: map[string]string{}, routes: map[netip.Addr]string{}, rules: map[uint32]int{}}
	have, err := readWiring(r.machine.NetNS)
	if err != nil {
		return err
	}
	for _, e := range enis {
		want.rules[hostnet.PodMark(e.Slot)] = hostnet.Table(e.Slot)
	}
	for _, p := range r.books.pods() {
		if !slices.ContainsFunc(enis, func(e eniView) bool { return slices.Contains(e.Addresses, p.addr) }) {
			return fmt.Errorf("%s of %s is on no ENI", p.addr, p.container)
		}
		link := cmp.Or(have.links[p.container], "none")
		want.links[p.container], want.routes[p.addr] = link, link
	}
	return have.equal(want)
}

// addresses counts what the pool has in the cloud.
func (r *rig) addresses() (n int) {
	for _, e := range r.gate.ours() {
		n += len(e.PrivateIPs)
	}
	return n
}
