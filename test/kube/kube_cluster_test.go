//go:build cluster

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/test/netlab"
)

const manifests = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeName: n1
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: localhost/nearpath/podapp:test
        imagePullPolicy: Never
        args: [serve, ":8080", --quiet, 0s]
        env:
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}
        resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cli}
spec:
  nodeName: n2
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: cli
    image: localhost/nearpath/podapp:test
    imagePullPolicy: Never
    args: [sleep]
    securityContext: {privileged: true}
    volumeMounts:
    - {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: Bidirectional}
    - {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
    - {name: bin, mountPath: /host/opt/cni/bin}
  volumes:
  - {name: bpffs, hostPath: {path: /sys/fs/bpf}}
  - {name: netns, hostPath: {path: /run/netns}}
  - {name: bin, hostPath: {path: /opt/cni/bin}}
`

func TestCluster(t *testing.T) {
	before, err := netlab.TakeInventory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // runs after the cluster is closed
		after, err := netlab.TakeInventory()
		if err != nil {
			t.Fatal(err)
		}
		if left := before.Containing(labPrefix).Diff(after.Containing(labPrefix)); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	c := Start(t, Config{Nodes: []NodeSpec{{Name: "n1"}, {Name: "n2"}}})
	c.WaitNodes(t)
	c.Apply(t, manifests)
	c.WaitReady(t, "deployment/default/web", "default/cli", "service/default/web")

	t.Run("a pod reaches a pod on the other node", func(t *testing.T) {
		url := "http://" + c.Node(t, "n1").Addr().String() + ":8080/hello"
		var got struct{ Node, Path, Remote string }
		if err := json.Unmarshal([]byte(c.Exec(t, "default/cli", "/podapp", "get", url)), &got); err != nil {
			t.Fatal(err)
		}
		if got.Node != "n1" || got.Path != "/hello" || !strings.HasPrefix(got.Remote, c.Node(t, "n2").Addr().String()+":") {
			t.Errorf("answer %+v", got)
		}
	})
	t.Run("a privileged pod sees its node", func(t *testing.T) {
		c.Exec(t, "default/cli", "/bin/busybox", "mkdir", "/sys/fs/bpf/made-by-pod")
		node := c.Node(t, "n2")
		if _, err := os.Stat(node.MachinePath("/sys/fs/bpf/made-by-pod")); err != nil {
			t.Error(err)
		}
		if out := c.Exec(t, "default/cli", "/bin/busybox", "ls", "/host/opt/cni/bin"); out != "loopback\n" {
			t.Errorf("/opt/cni/bin has %q", out)
		}
	})
	t.Run("the node's cgroup has the pod", func(t *testing.T) {
		// What a BPF program attached at the root of the node's cgroup2 acts on.
		found, err := filepath.Glob(filepath.Join(c.Node(t, "n2").CgroupPath(), "k8s.io", "*"))
		if err != nil || len(found) < 2 {
			t.Errorf("cgroups of sandbox and container: %v (%v)", found, err)
		}
	})
	t.Run("pods outlive kubelet and containerd", func(t *testing.T) {
		pod := c.Pod(t, "default/cli")
		c.Node(t, "n2").RestartContainerd(t)
		c.Node(t, "n2").RestartKubelet(t)
		c.WaitReady(t, "node/n2", "default/cli")
		again := c.Pod(t, "default/cli")
		if pod.UID != again.UID || restarts(again) != 0 {
			t.Errorf("pod %s with %d restarts, was %s", again.UID, restarts(again), pod.UID)
		}
		c.Wait(t, "kubelet to know its pods again", func(ctx context.Context) error {
			_, err := c.TryExec(ctx, "default/cli", "/podapp", "lookup", "192.0.2.1")
			return err
		})
	})
	t.Run("the programs know their version", func(t *testing.T) {
		var n corev1.Node
		c.Get(t, "node/n1", &n)
		if v := n.Status.NodeInfo.KubeletVersion; !strings.HasPrefix(v, "v1.") {
			t.Errorf("kubelet is %s", v)
		}
	})
	t.Run("a failing command says why", func(t *testing.T) {
		if _, err := c.TryExec(t.Context(), "default/cli", "/podapp", "get", "http://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("deleted objects go", func(t *testing.T) {
		c.Delete(t, manifests)
		c.WaitGone(t, "default/cli")
		if err := c.TryGet(t.Context(), "default/cli", new(struct{})); !errors.Is(err, errNotFound) {
			t.Errorf("pod after delete: %v", err)
		}
	})
}

func restarts(p corev1.Pod) int32 {
	var sum int32
	for _, s := range p.Status.ContainerStatuses {
		sum += s.RestartCount
	}
	return sum
}

func TestControlPlaneWhereItIsTold(t *testing.T) {
	const prefix = "npkube-own"
	lab, err := netlab.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	ns, err := lab.NetNS("cp")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.1")
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return setUp(lo, addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("cluster", func(t *testing.T) {
		c := Start(t, Config{
			Lab:          lab,
			ControlPlane: ControlPlane{NetNS: ns, Addr: addr},
			ServiceCIDR:  netip.MustParsePrefix("198.51.100.0/24"),
		})
		var kubernetes corev1.Service
		c.WaitReady(t, "service/default/kubernetes")
		c.Get(t, "service/default/kubernetes", &kubernetes)
		if kubernetes.Spec.ClusterIP != "198.51.100.1" || c.APIAddress() != "192.0.2.1:6443" {
			t.Errorf("Service at %s, API at %s", kubernetes.Spec.ClusterIP, c.APIAddress())
		}
	})
	// The cluster is closed, the lab is not: the namespace can be used again.
	listening := errors.New("the apiserver still listens")
	err = ns.Do(func() error {
		conn, err := net.Dial("tcp", "192.0.2.1:6443")
		if err == nil {
			return errors.Join(listening, conn.Close())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
