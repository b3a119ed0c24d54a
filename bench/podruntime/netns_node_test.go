//go:build node

package podruntime

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/test/netlab"
)

// entries lists the namespaces and the links of a node.
func entries(t *testing.T, n *netlab.Node) string {
	t.Helper()
	out, err := n.Command(t.Context(), "sh", "-c", "ls /run/netns /sys/class/net").CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	return string(out)
}

func TestNetNSOnNode(t *testing.T) {
	lab, err := netlab.New("nptest-podruntime")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	ns, err := lab.NetNS("n")
	if err != nil {
		t.Fatal(err)
	}
	node, err := lab.StartNode(netlab.NodeSpec{Name: "n", NetNS: ns})
	if err != nil {
		t.Fatal(err)
	}
	r := connect(t, node.Command(context.WithoutCancel(t.Context()), os.Args[0])) // it ends in a cleanup
	pods := []string{"pod1", "pod2"}
	if err := r.MakeNetNS(t.Context(), pods); err != nil {
		t.Fatal(err)
	}
	empty := entries(t, node)
	if !strings.Contains(empty, "pod1\npod2\n") {
		t.Errorf("the node has %s", empty)
	}
	floor := func(netns string) Call { return Call{Program: "/bin/true", Link: &Link{Name: "link1", NetNS: netns}} }
	for _, netns := range []string{Path("pod1"), "", Path("pod2")} {
		if _, err := r.Run(t.Context(), Batch{AtATime: 1, Calls: []Call{floor(netns)}}); err != nil {
			t.Fatal(err)
		}
		if have := entries(t, node); strings.Contains(have, "link1") != (netns != "") {
			t.Errorf("after the link into %q the node has %s", netns, have)
		}
	}
	if out, err := node.Command(t.Context(), "nsenter", "--net="+Path("pod2"), "cat", "/proc/net/dev").CombinedOutput(); err != nil || !strings.Contains(string(out), "eth0:") {
		t.Errorf("pod2 has no eth0: %v, %s", err, out)
	}
	if err := r.RemoveNetNS(t.Context(), pods); err != nil {
		t.Fatal(err)
	}
	// The link went with its other end, before RemoveNetNS returned.
	if have := entries(t, node); strings.Contains(have, "pod") || strings.Contains(have, "link1") || strings.Contains(have, "witness") {
		t.Errorf("the node still has %s", have)
	}
}
