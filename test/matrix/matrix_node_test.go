//go:build node

package matrix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// A field is everything that rows talk about.
type field struct {
	*rig
	n1, n2 *node // with the VPC's and with the node's own way out
	docker *peer // on n1
	second *peer // n1 by its second ENI, which is not the agent's
	onHost *service
	of     map[string]*pods // by datapath
}

// The pods of a datapath. All but remote are on n1.
type pods struct {
	a, same, other, remote *pod // same has the ENI of a, other has not
	packets                *pod // whose Services are translated in its packets
	near, far, local       *service
	away, inner, none      *service // far with Local policies, the external and the internal one; without a backend
	self                   *service // packets
	aside                  *service // far, by the second ENI
	hostPort, hostIPPort   uint16   // of a
	broken                 error    // why there are none
}

// TestMatrix makes the field and tries every row.
func TestMatrix(t *testing.T) {
	f := newField(t, "m")
	table := &table{datapaths: datapaths}
	defer func() { t.Logf("\n%s", table) }()
	for _, row := range rows(datapaths) {
		if row.name == "pod - internet, by the VPC" {
			for _, p := range podSubnets { // the vSwitch gets its SNAT entry
				ok(t, f.gateway.LetOut(p))
			}
		}
		t.Run(row.name, func(t *testing.T) { f.tryRow(t, row, table) })
		for _, p := range podSubnets {
			_ = f.gateway.KeepIn(p) // it is let out in one row only
		}
	}
}

// newField makes one with all the datapaths' pods.
func newField(t *testing.T, name string) *field {
	t.Helper()
	r := newRig(t, spec{
		name: name, enis: 4*len(datapaths) + 2, second: true, nodes: []string{"vpc", "node-snat"}, pool: "minIdle: 1, maxIdle: 2, cooldown: 1s",
	})
	f := &field{rig: r, n1: r.nodes[0], n2: r.nodes[1], of: map[string]*pods{}}
	ok(t, f.build(t.Context()))
	return f
}

func (f *field) tryRow(t *testing.T, row row, table *table) {
	t.Helper()
	for _, d := range datapaths {
		if row.only != nil && !slices.Contains(row.only, d) {
			table.none(row.name, d, "", ipv4, ipv6)
			continue
		}
		for _, fam := range families {
			if fam == ipv6 && row.noIPv6 != "" {
				table.none(row.name, d, row.noIPv6, ipv6)
				continue
			}
			for _, protocol := range protocols {
				c := cell{field: f, pods: f.of[d], family: fam, protocol: protocol}
				good := t.Run(fmt.Sprintf("%s/%s/%s", d, fam, protocol), func(t *testing.T) {
					ok(t, c.pods.broken)
					ok(t, row.try(c))
				})
				table.note(row.name, d, fam, good)
			}
		}
	}
}

// build makes all pods and Services. A datapath whose pods cannot be made is broken, the others are tried all the same.
func (f *field) build(ctx context.Context) error {
	if err := f.startOutside(ctx); err != nil {
		return err
	}
	var err error
	if f.docker, err = f.n1.startDocker(ctx); err != nil {
		return err
	}
	f.second = &peer{name: f.n1.Name(), addrs: f.n1.second.Addrs()}
	var wishes []wish
	for i, d := range datapaths {
		f.of[d] = &pods{hostPort: uint16(18000 + i), hostIPPort: uint16(18100 + i)} //nolint:gosec // there are three
		wishes = append(wishes, f.wishes(d)...)
	}
	for _, d := range datapaths { // after the others, whose place on the ENIs counts
		if d != ipvlan {
			wishes = append(wishes, wish{name: d + "-packets", datapath: d, node: f.n1, byPackets: true})
		}
	}
	if err := f.announce("pods.yaml", wishes); err != nil {
		return err
	}
	f.runAll(ctx, wishes)
	all := &services{}
	f.onHost = all.add("on-host", backend{f.n1.host, f.n1})
	f.onHost.nodePort = true
	for _, d := range datapaths {
		p := f.of[d]
		if p.broken != nil {
			continue
		}
		p.near = all.add(d+"-near", backend{p.a.peer, f.n1})
		p.far = all.add(d+"-far", backend{p.remote.peer, f.n2})
		p.local = all.add(d+"-local", backend{p.a.peer, f.n1})
		p.near.nodePort, p.far.nodePort, p.local.nodePort, p.local.local = true, true, true, true
		if err := f.addPacketServices(d, all); err != nil {
			return err
		}
	}
	return f.applyServices(ctx, all)
}

// wishes are the pods of a datapath: as many as it takes to have two on one ENI and two on different ones.
func (f *field) wishes(d string) (all []wish) {
	count := perENI + 1
	if d == exclusive {
		count = 2
	}
	own := f.of[d]
	for i := range count {
		w := wish{name: fmt.Sprintf("%s-%d", d, i+1), datapath: d, node: f.n1}
		if i == 0 {
			w.ports = ports(hostPort{HostPort: own.hostPort, ContainerPort: probePort})
			for _, a := range f.n1.host.addrs {
				w.ports = append(w.ports, ports(hostPort{HostPort: own.hostIPPort, ContainerPort: probePort, HostIP: a.String()})...)
			}
		}
		all = append(all, w)
	}
	return append(all, wish{name: d + "-remote", datapath: d, node: f.n2})
}

func ports(p hostPort) []hostPort {
	udp := p
	p.Protocol, udp.Protocol = "tcp", "udp"
	return []hostPort{p, udp}
}

// runAll makes the pods, those of both nodes at once, and picks the parts of each datapath.
func (f *field) runAll(ctx context.Context, wishes []wish) {
	made := make([]*pod, len(wishes))
	errs := make([]error, len(wishes))
	var nodes sync.WaitGroup
	for _, n := range f.nodes {
		nodes.Go(func() {
			for i, w := range wishes {
				if w.node == n {
					made[i], errs[i] = w.run(ctx)
				}
			}
		})
	}
	nodes.Wait()
	for i, w := range wishes {
		own := f.of[w.datapath]
		p := made[i]
		switch {
		case errs[i] != nil:
			own.broken = errors.Join(own.broken, errs[i])
		case w.node == f.n2:
			own.remote = p
		case w.byPackets:
			own.packets = p
		case own.a == nil:
			own.a = p
		case p.eni == own.a.eni:
			own.same = cmp.Or(own.same, p)
		default:
			own.other = cmp.Or(own.other, p)
		}
	}
	for d, own := range f.of {
		if own.broken == nil && (own.other == nil || own.same == nil && d != exclusive) {
			own.broken = fmt.Errorf("the pods of datapath %s are not on the ENIs that they should be on", d)
		}
	}
}

// A table is what came out, by row, datapath and family.
type table struct {
	datapaths []string
	rows      []string
	cells     map[string]string
	reasons   []string
}

func (tb *table) set(row, datapath string, f family, text string) {
	if tb.cells == nil {
		tb.cells = map[string]string{}
	}
	if !slices.Contains(tb.rows, row) {
		tb.rows = append(tb.rows, row)
	}
	tb.cells[row+datapath+string(f)] = text
}

// none notes that a row has no meaning there.
func (tb *table) none(row, datapath, reason string, fs ...family) {
	for _, f := range fs {
		tb.set(row, datapath, f, "-")
	}
	if note := row + ", IPv6: " + reason; reason != "" && !slices.Contains(tb.reasons, note) {
		tb.reasons = append(tb.reasons, note)
	}
}

// note notes how it went with one protocol.
func (tb *table) note(row, datapath string, f family, good bool) {
	if text := tb.cells[row+datapath+string(f)]; good && text != "FAILED" {
		tb.set(row, datapath, f, "ok")
	} else {
		tb.set(row, datapath, f, "FAILED")
	}
}

func (tb *table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(title string, cell func(datapath string, f family) string) {
		fmt.Fprint(w, title)
		for _, d := range tb.datapaths {
			for _, f := range families {
				fmt.Fprintf(w, "\t%s", cell(d, f))
			}
		}
		fmt.Fprintln(w)
	}
	line("traffic (TCP and UDP)", func(d string, f family) string { return d + " " + string(f) })
	for _, row := range tb.rows {
		line(row, func(d string, f family) string { return tb.cells[row+d+string(f)] })
	}
	_ = w.Flush() // a strings.Builder takes everything
	for _, reason := range tb.reasons {
		fmt.Fprintf(&b, "no meaning: %s\n", reason)
	}
	return b.String()
}
