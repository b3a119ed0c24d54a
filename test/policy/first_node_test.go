//go:build node

package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/nearpath/nearpath/test/agentlab"
)

// podsEnv is how many pods are started that send before they may, crowdStarts by default.
const podsEnv = "NEARPATH_POLICY_PODS"

// A crowd is pods that come and go, half of which may send to all peers, and the others to none: their own egress does not let
// them to two, and the ingress of the third does not let them in. They take over one another's addresses.
type crowd struct {
	*world
	peers    []*place // one outside of the cluster, and two on the pods' node
	counters []*prober
	to       []netip.Addr // all their addresses
}

const (
	crowdLanes = 4
	crowdNames = 10 * crowdLanes // different pods
	firstPort  = 10000           // which the first of them sends to, the second to the next one
)

// allowed says whether the pod that is started as the i-th may be heard. All that have its name have its labels.
func (c *crowd) allowed(i int) bool { return i/crowdLanes%2 == 0 }

func (c *crowd) name(i int) string { return fmt.Sprintf("crowd-%d", i%crowdNames) }

// annotations choose the datapath: of each two of one lane, one that may send and one that may not, so that they take turns with the ENI.
func (c *crowd) annotations(i int) map[string]string {
	switch i % crowdNames {
	case 2 * crowdLanes, 3 * crowdLanes:
		return map[string]string{"nearpath.io/datapath": "exclusive"}
	case 2*crowdLanes + 1, 3*crowdLanes + 1:
		return map[string]string{"nearpath.io/datapath": thirdDatapath}
	}
	return nil
}

const (
	crowdEgress  = "{podSelector: {matchLabels: {role: bad}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}}]}]}"
	crowdIngress = "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: crowd}}, podSelector: {matchLabels: {role: good}}}]}]}"
)

// testFirst is reference rows S26 and S31: pods send from their first instruction on, and until they are gone.
func (w *world) testFirst(t *testing.T) {
	starts := crowdStarts
	if text := os.Getenv(podsEnv); text != "" {
		var err error
		starts, err = strconv.Atoi(text)
		ok(t, err)
	}
	c := w.newCrowd(t)
	w.enforce(t, v1("crowd", "out", crowdEgress)+v1("x", "in", crowdIngress))
	var lanes sync.WaitGroup
	for lane := range crowdLanes {
		n1 := w.nodes["n1"]
		s := startProber(t, w.lab, selfIn(t, n1.Command), roleStarter)
		lanes.Go(func() {
			for i := lane; i < starts; i += crowdLanes {
				if err := c.start(t.Context(), s, n1, i); err != nil {
					t.Errorf("pod %d: %v", i, err)
					return
				}
			}
		})
	}
	lanes.Wait()
	var bad []uint16
	for i := range starts {
		if !c.allowed(i) {
			bad = append(bad, firstPort+uint16(i))
		}
	}
	for i, counter := range c.counters {
		var came []uint16
		ok(t, counter.exchange(bad, &came))
		t.Logf("of %d pods that may not send to %s, and did from their first instruction on, %d were heard", len(bad), c.peers[i], len(came))
		if len(came) > 0 {
			t.Errorf("%s was sent packets by pods %d", c.peers[i], came)
		}
	}
}

func (w *world) newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{world: w, peers: []*place{w.outside, w.find("x/a"), w.find("z/c")}}
	c.counters = []*prober{
		startProber(t, w.lab, selfIn(t, w.machine.NetNS.Command), roleCounter),
		startProber(t, w.lab, selfIn(t, c.peers[1].pod.Command), roleCounter),
		startProber(t, w.lab, selfIn(t, c.peers[2].pod.Command), roleCounter),
	}
	for _, p := range c.peers {
		c.to = append(c.to, p.addrs...)
	}
	for i := range crowdNames {
		role := "bad"
		if c.allowed(i) {
			role = "good"
		}
		w.later = append(w.later, &place{namespace: "crowd", name: c.name(i), node: "n1", role: role, annotations: c.annotations(i)})
	}
	w.writeObjects(t)
	return c
}

// start starts a pod and ends it when it has been heard, if it may be, and has sent on after its ADD.
func (c *crowd) start(ctx context.Context, s *prober, n *agentlab.Node, i int) error {
	netns, l := fmt.Sprintf("crowd-%d", i), launch{}
	l.NetNS = netns
	for _, a := range c.to {
		l.To = append(l.To, netip.AddrPortFrom(a, firstPort+uint16(i)))
	}
	var rounds int
	if err := s.exchange(l, &rounds); err != nil {
		return err
	}
	spec := agentlab.PodSpec{Namespace: "crowd", Name: c.name(i), Annotations: c.annotations(i)}
	// An ENI that the pod before had is not back until the kernel has taken its namespace apart. Who starts pods tries again.
	if err := until("ADD", func() error { return n.CNI(ctx, "ADD", spec, netns) }); err != nil {
		return err
	}
	if c.allowed(i) {
		if err := c.heard(firstPort + uint16(i)); err != nil {
			return err
		}
	}
	err := s.exchange(launch{}, &rounds)
	return errors.Join(err, n.CNI(ctx, "DEL", spec, netns))
}

// heard returns when something has come to a port of all peers.
func (c *crowd) heard(port uint16) error {
	for i, counter := range c.counters {
		err := until(c.peers[i].String()+" to hear the pod", func() error {
			var came []uint16
			err := counter.exchange([]uint16{port}, &came)
			if err == nil && len(came) == 0 {
				err = errors.New("it does not")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
