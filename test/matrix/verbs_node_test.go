//go:build node

package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/vishvananda/netlink"
)

// Error codes of the CNI specification 1.1.0, section 5.
const (
	codeTryAgain     = 11
	codeNotAvailable = 50
)

// addWait is how long an ADD waits for an absent agent, see cmd/nearpath-cni.
const addWait = 10 * time.Second

// toolDir is on the node, where files of one run are gone with it: cnitool keeps its results in /var/lib/cni.
const toolDir = "/run/npverbs"

// movingENI begins the line of any ENI where what it is used for does not count.
const movingENI = "ENI "

// A verbs is a node on which the CNI project's own cnitool is the runtime.
type verbs struct {
	*node
	rig      *rig
	datapath string
	calm     view // what there is without pods
	// moving says that the pool may get another ENI, or make an idle one that pods share one for a single pod: what ENIs are used
	// for does not count.
	moving bool
}

func TestVerbs(t *testing.T) {
	t.Parallel() // what it does is to wait, mostly
	r := newRig(t, spec{name: "v", enis: 6, nodes: []string{"vpc"}, pool: "minIdle: 1, maxIdle: 3, cooldown: 200ms"})
	n := r.nodes[0]
	n.prepareTool(t)
	for _, d := range datapaths {
		t.Run(d, func(t *testing.T) {
			v := &verbs{node: n, rig: r, datapath: d, moving: true}
			v.warmUp(t)
			t.Run("ADD, CHECK, DEL thrice", v.addCheckDel)
			t.Run("CHECK finds what is wrong", v.checkBroken)
			t.Run("GC", v.collect)
			t.Run("older versions", v.olderVersions)
			t.Run("DEL after the namespace", v.delWithoutNamespace)
			t.Run("agent absent", v.agentAbsent)
		})
	}
	t.Run("STATUS", func(t *testing.T) { _, err := n.tool(t.Context(), "status", nil); ok(t, err) })
	t.Run("VERSION", func(t *testing.T) { n.version(t) })
	t.Run("kube-proxy's endpoints", n.proxyEndpoints)
}

// prepareTool installs the plugin and its configuration as shipped.
func (n *node) prepareTool(t *testing.T) {
	t.Helper()
	script := `mkdir -p $1/bin $1/net.d $1/lib; exec "$2" cni install --from "$3" --bin-dir $1/bin --conf-dir $1/net.d`
	out, err := n.Command(t.Context(), "sh", "-ec", script, "sh", toolDir, filepath.Join(n.rig.bin, "nearpath"), n.rig.bin).CombinedOutput()
	if err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
}

// tool runs cnitool for the pod; nil: for none.
func (n *node) tool(ctx context.Context, verb string, p *pod) ([]byte, error) {
	netns := "/proc/self/ns/net"
	if p != nil {
		netns = p.sandbox.NetNSPath()
	}
	const private = `mount --bind "$1" /var/lib; shift; exec "$@"`
	cmd := n.Command(ctx, "unshare", "-m", "--", "sh", "-ec", private, "sh", toolDir+"/lib", filepath.Join(n.rig.bin, "cnitool"), verb, "nearpath", netns)
	cmd.Env = append(os.Environ(), "NETCONFPATH="+toolDir+"/net.d", "CNI_PATH="+toolDir+"/bin", "CNI_IFNAME="+podLink)
	if p != nil {
		args, err := json.Marshal(p.runtime.CapabilityArgs)
		if err != nil {
			return nil, err
		}
		cmd.Env = append(cmd.Env, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+p.name, "CAP_ARGS="+string(args))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cnitool %s: %w: %s%s", verb, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// sandboxes makes pods without a network that the API knows.
func (v *verbs) sandboxes(t *testing.T, names ...string) (pods []*pod) {
	t.Helper()
	var wishes []wish
	for _, name := range names {
		wishes = append(wishes, wish{name: v.datapath + "-" + name, datapath: v.datapath, node: v.node})
	}
	ok(t, v.rig.announce("pods.yaml", wishes))
	for _, w := range wishes {
		p, err := w.sandboxOf(t.Context())
		ok(t, err)
		pods = append(pods, p)
		t.Cleanup(func() { ok(t, p.stop(context.WithoutCancel(t.Context()))) })
	}
	return pods
}

// all is everything that pods leave traces in. Files of runtimes are theirs.
func (v *verbs) all() (all view, err error) {
	var leases []struct{ Name string }
	if err := v.api.Get(context.Background(), "/v1/pods", &leases); err != nil {
		return nil, err
	}
	for _, l := range leases {
		all = append(all, "lease "+l.Name)
	}
	for _, list := range []func() (view, error){v.network, v.maps, v.files} {
		part, err := list()
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	if !v.moving {
		return all, nil
	}
	for i, line := range all {
		if at := strings.Index(line, eniVendor); at >= 0 {
			all[i] = movingENI + line[at:at+len("00:00:00:00:00:00")]
		}
	}
	return slices.DeleteFunc(all, func(line string) bool {
		return strings.Contains(line, "table 1") || strings.HasPrefix(line, "rp_filter eth") ||
			strings.HasPrefix(line, "program eth") || strings.HasPrefix(line, "pin ") && strings.Contains(line, "/links/from_vpc-")
	}), nil
}

// warmUp runs two pods once, so that the pool has what they need.
func (v *verbs) warmUp(t *testing.T) {
	t.Helper()
	pods := v.sandboxes(t, "warm-1", "warm-2")
	for _, p := range pods {
		ok(t, p.add(t.Context()))
	}
	for _, p := range pods {
		ok(t, p.del(t.Context()))
	}
	v.settle(t)
}

// settle notes what there is without pods, once that does not change by itself.
func (v *verbs) settle(t *testing.T) {
	t.Helper()
	ok(t, v.awaitRest(t.Context()))
	ok(t, await(patience, "two looks to be the same", func() error {
		first, err := v.all()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(first, func(line string) bool { return strings.HasSuffix(line, defunct) }); i >= 0 {
			return errors.New(first[i])
		}
		time.Sleep(500 * time.Millisecond) // addresses cool, ENIs come and go
		v.calm, err = v.all()
		return errors.Join(err, first.lacks(v.calm))
	}))
}

// isCalm waits until nothing is left of any pod. An idle ENI more is the pool's, which grows in its own time.
func (v *verbs) isCalm(t *testing.T) {
	t.Helper()
	warm := func(line string) bool {
		return (strings.HasPrefix(line, idleENI) || strings.HasPrefix(line, movingENI)) && !slices.Contains(v.calm, line)
	}
	ok(t, await(patience, "everything of the pods to be gone", func() error {
		now, err := v.all()
		now = slices.DeleteFunc(now, warm)
		return errors.Join(err, v.calm.lacks(now))
	}))
}

func (v *verbs) addCheckDel(t *testing.T) {
	p := v.sandboxes(t, "add")[0]
	out, err := v.tool(t.Context(), "add", p)
	ok(t, err)
	v.judge(t, p, out)
	_, err = v.tool(t.Context(), "check", p)
	ok(t, err)
	for range 3 {
		_, err = v.tool(t.Context(), "del", p)
		ok(t, err)
	}
	v.isCalm(t)
}

// judge holds a result against the specification (1.1.0, section 6) and what is in the pod.
func (v *verbs) judge(t *testing.T, p *pod, out []byte) {
	t.Helper()
	var result types100.Result
	ok(t, json.Unmarshal(out, &result))
	if result.CNIVersion != "1.1.0" || len(result.IPs) != 2 || len(result.Routes) == 0 {
		t.Errorf("the result is %s", out)
	}
	i := slices.IndexFunc(result.Interfaces, func(i *types100.Interface) bool { return i.Name == podLink })
	if i < 0 || result.Interfaces[i].Sandbox != p.sandbox.NetNSPath() || result.Interfaces[i].Mac == "" || result.Interfaces[i].Mtu == 0 {
		t.Fatalf("the result does not describe %s in %s: %s", podLink, p.sandbox.NetNSPath(), out)
	}
	for _, ip := range result.IPs {
		if ip.Interface == nil || *ip.Interface != i {
			t.Errorf("%s is not on the pod's interface: %s", ip.Address.IP, out)
		}
	}
	ok(t, p.took(&result))
	ok(t, p.netns.Do(func() error {
		link, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		if mac := link.Attrs().HardwareAddr.String(); mac != result.Interfaces[i].Mac {
			return fmt.Errorf("the result says the MAC address %s, %s has %s", result.Interfaces[i].Mac, podLink, mac)
		}
		return nil
	}))
}

func (v *verbs) checkBroken(t *testing.T) {
	p := v.sandboxes(t, "broken")[0]
	_, err := v.tool(t.Context(), "add", p)
	ok(t, err)
	ok(t, p.netns.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if ones, _ := r.Dst.Mask.Size(); ones == 0 {
				return netlink.RouteDel(&r)
			}
		}
		return errors.New("the pod has no default route")
	}))
	if _, err := v.tool(t.Context(), "check", p); err == nil {
		t.Error("CHECK does not see that the default route is gone")
	} else {
		t.Log(err)
	}
	_, err = v.tool(t.Context(), "del", p)
	ok(t, err)
	v.isCalm(t)
}

// collect has one pod that is valid, and one that its runtime has forgotten.
func (v *verbs) collect(t *testing.T) {
	pods := v.sandboxes(t, "valid", "forgotten")
	for _, p := range pods {
		ok(t, p.add(t.Context()))
	}
	// The runtime forgets the second: it is neither in its cache nor among the valid ones.
	ok(t, os.RemoveAll(filepath.Join(v.Dir(), "cni", "cache")))
	valid := []types.GCAttachment{{ContainerID: pods[0].runtime.ContainerID, IfName: podLink}}
	ok(t, v.cni.GCNetworkList(t.Context(), v.conflist, &libcni.GCArgs{ValidAttachments: valid}))
	var leases []struct{ Name string }
	ok(t, v.api.Get(t.Context(), "/v1/pods", &leases))
	if len(leases) != 1 || leases[0].Name != pods[0].name {
		t.Errorf("after GC there are the leases %v, want that of %s", leases, pods[0].name)
	}
	ok(t, pods[0].checkDatapath())
	if pods[1].checkDatapath() == nil {
		t.Errorf("after GC %s has its network", pods[1].name)
	}
	// cnitool says null instead of a list. That is no order to delete every pod of the node.
	if _, err := v.tool(t.Context(), "gc", nil); err == nil {
		t.Error("GC without a list of what is valid succeeds")
	}
	ok(t, pods[0].checkDatapath())
	ok(t, v.cni.GCNetworkList(t.Context(), v.conflist, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}))
	v.isCalm(t)
}

func (v *verbs) olderVersions(t *testing.T) {
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
		p := v.sandboxes(t, "v"+strings.ReplaceAll(version, ".", ""))[0]
		conf := v.shippedIn(t, version)
		result, err := v.cni.AddNetworkList(t.Context(), conf, p.runtime)
		ok(t, err)
		if result.Version() != version {
			t.Errorf("asked in version %s, the result is in %s", version, result.Version())
		}
		printed, err := json.Marshal(result)
		ok(t, err)
		if _, err := create.Create(version, printed); err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		current, err := types100.GetResult(result)
		ok(t, err)
		ok(t, p.took(current))
		if version != "0.3.0" && version != "0.3.1" { // which know no CHECK
			ok(t, v.cni.CheckNetworkList(t.Context(), conf, p.runtime))
		}
		ok(t, v.cni.DelNetworkList(t.Context(), conf, p.runtime))
	}
	v.isCalm(t)
}

// shippedIn is the shipped configuration for a runtime of an older version.
func (v *verbs) shippedIn(t *testing.T, version string) *libcni.NetworkConfigList {
	t.Helper()
	var conf map[string]any
	ok(t, json.Unmarshal(v.conflist.Bytes, &conf))
	delete(conf, "cniVersions")
	conf["cniVersion"] = version
	text, err := json.Marshal(conf)
	ok(t, err)
	list, err := libcni.NetworkConfFromBytes(text)
	ok(t, err)
	return list
}

// delWithoutNamespace is what a kubelet does after a node's crash.
func (v *verbs) delWithoutNamespace(t *testing.T) {
	p := v.sandboxes(t, "late")[0]
	ok(t, p.add(t.Context()))
	ok(t, p.stop(t.Context()))
	for range 2 {
		ok(t, p.del(t.Context()))
	}
	v.isCalm(t)
}

// agentAbsent kills the agent: ADD waits a while and may be repeated, DEL succeeds, and the agent does it when it is back.
func (v *verbs) agentAbsent(t *testing.T) {
	pods := v.sandboxes(t, "early", "deleted")
	ok(t, pods[1].add(t.Context()))
	v.stopAgent()
	begin := time.Now()
	err := pods[0].add(t.Context())
	took := time.Since(begin)
	if code := codeOf(err); code != codeTryAgain || took < addWait || took > 2*addWait {
		t.Errorf("ADD without an agent: code %d after %s (%v), want %d after %s", code, took, err, codeTryAgain, addWait)
	}
	t.Logf("ADD without an agent gave up after %s", took.Round(time.Millisecond))
	if err := v.cni.GetStatusNetworkList(t.Context(), v.conflist); codeOf(err) != codeNotAvailable {
		t.Errorf("STATUS without an agent: %v, want code %d", err, codeNotAvailable)
	}
	for range 2 {
		ok(t, pods[1].del(t.Context()))
	}
	ok(t, pods[0].del(t.Context()))
	ok(t, v.startAgent(t.Context()))
	ok(t, v.awaitAgent(t.Context()))
	v.isCalm(t)
}

func codeOf(err error) uint {
	var told *types.Error
	if errors.As(err, &told) {
		return told.Code
	}
	return 0
}

// version asks the plugin itself: cnitool has no such verb.
func (n *node) version(t *testing.T) {
	t.Helper()
	cmd := n.Command(t.Context(), toolDir+"/bin/nearpath-cni")
	cmd.Env = append(os.Environ(), "CNI_COMMAND=VERSION")
	cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0"}`)
	out, err := cmd.Output()
	ok(t, err)
	var told struct{ SupportedVersions []string }
	ok(t, json.Unmarshal(out, &told))
	if want := []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}; !slices.Equal(told.SupportedVersions, want) {
		t.Errorf("it supports %v, want %v", told.SupportedVersions, want)
	}
}
