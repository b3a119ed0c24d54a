//go:build node

package matrix

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// instanceType is that of all the machines.
const instanceType = "ecs.sim.matrix"

// perENI is how many addresses of a family an ENI has: few, so that a handful of pods needs several ENIs.
const perENI = 3

// podSubnets are those of the pods' vSwitch, see sim.DualStackConfig.
var podSubnets = []netip.Prefix{netip.MustParsePrefix("10.0.64.0/20"), netip.MustParsePrefix("2001:db8:10:40::/64")}

// A spec says what a rig is like.
type spec struct {
	name  string
	enis  int      // that a machine may have, the primary one not counted
	nodes []string // egress modes of the nodes
	pool  string   // settings of the agents' pools, beside the stack
	// second gives each node an ENI that is not the agent's.
	second bool
	// more goes to the end of the agents' configuration.
	more string
}

// A rig is a simulated cloud with nodes that have an agent each.
type rig struct {
	spec
	*netlab.Lab
	bin       string
	cloud     *cloudlab.Cloud
	nodes     []*node
	outside   *peer // a machine of the VPC that is no node
	internet  *peer
	gateway   *cloudlab.Internet
	manifests map[string]string // by file name
}

func newRig(t *testing.T, s spec) *rig {
	t.Helper()
	name := prefix + "-" + s.name
	leaveNothing(t, name)
	r := &rig{spec: s, bin: os.Getenv(binEnv), manifests: map[string]string{}}
	var err error
	r.Lab, err = netlab.New(name)
	ok(t, err)
	t.Cleanup(func() { ok(t, r.Close()) })
	r.cloud, err = cloudlab.Open(r.Lab, cloudlab.Options{Sim: r.simulated(), InstanceType: instanceType, IPv6: true})
	ok(t, err)
	t.Cleanup(func() { ok(t, r.cloud.Close()) })
	ok(t, os.Mkdir(r.manifestDir(), 0o755))
	ok(t, r.apply("base.yaml", baseManifests))
	for i, egress := range s.nodes {
		n, err := r.newNode(t.Context(), fmt.Sprintf("n%d", i+1), egress)
		ok(t, err)
		r.nodes = append(r.nodes, n)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range r.nodes {
				warned, _ := n.toldSince(0)
				t.Logf("the agent of %s warned:\n%s\nits log ends:\n%s", n.Name(), strings.Join(warned, "\n"), tail(n.logFile(), 6000))
			}
		}
	})
	starts := make([]error, len(r.nodes))
	for i, n := range r.nodes {
		starts[i] = n.startAgent(t.Context())
	}
	ok(t, errors.Join(starts...))
	for _, n := range r.nodes {
		ok(t, n.awaitAgent(t.Context()))
		ok(t, n.installCNI(t.Context()))
	}
	return r
}

func (r *rig) simulated() sim.Config {
	config := sim.DualStackConfig()
	config.Logger = slog.New(slog.DiscardHandler)
	kind := config.InstanceTypes[len(config.InstanceTypes)-1]
	kind.ID, kind.ENIs, kind.AddressesPerENI, kind.IPv6PerENI, kind.TotalQueues = instanceType, r.enis+1, perENI, perENI, 0
	config.InstanceTypes = append(config.InstanceTypes, kind)
	return config
}

func (r *rig) manifestDir() string { return filepath.Join(r.Dir(), "manifests") }

// apply writes manifests, which the agents then find.
func (r *rig) apply(file, text string) error {
	r.manifests[file] = text
	return writeFile(filepath.Join(r.manifestDir(), file), text)
}

// startOutside makes what is outside: a machine of the VPC, and the internet.
func (r *rig) startOutside(ctx context.Context) error {
	m, err := r.cloud.Machine(ctx, "outside")
	if err != nil {
		return err
	}
	if r.outside, err = startPeer(r.Lab, m.NetNS.Command(context.WithoutCancel(ctx), r.podapp(), "probe", probeAddr), "outside", m.Addrs()...); err != nil {
		return err
	}
	if r.gateway, err = r.cloud.Internet(); err != nil {
		return err
	}
	cmd := r.gateway.NetNS.Command(context.WithoutCancel(ctx), r.podapp(), "probe", probeAddr)
	if r.internet, err = startPeer(r.Lab, cmd, "internet", r.gateway.Addrs...); err != nil {
		return err
	}
	for _, n := range r.nodes { // each has an EIP
		for _, a := range n.host.addrs {
			if err := r.gateway.LetOut(netip.PrefixFrom(a, a.BitLen())); err != nil {
				return err
			}
		}
	}
	return nil
}

var probeAddr = fmt.Sprintf(":%d", probePort)

func (r *rig) podapp() string { return filepath.Join(r.bin, "podapp") }

// eniOf is the ID and the MAC address of the ENI that has an address.
func (r *rig) eniOf(a netip.Addr) (id, mac string) {
	for _, e := range r.cloud.Sim().ENIs() {
		if slices.Contains(e.PrivateIPs, a) {
			return e.ID, strings.ToLower(e.MAC)
		}
	}
	return "", ""
}

const baseManifests = `apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
`

// kubeDNS are the addresses of that Service, nodeDNS the listener's on every node.
var (
	kubeDNS = map[family]netip.AddrPort{ipv4: netip.MustParseAddrPort("10.96.0.10:53"), ipv6: netip.MustParseAddrPort("[fd00:96::a]:53")}
	nodeDNS = map[family]netip.AddrPort{ipv4: netip.MustParseAddrPort("169.254.20.10:53"), ipv6: netip.MustParseAddrPort("[fd6e:6561:7270::53]:53")}
)
