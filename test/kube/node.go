package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nearpath/nearpath/test/netlab"
)

// A Node is a node of a cluster: a netlab.Node with containerd and kubelet.
type Node struct {
	*netlab.Node

	// CNIConfDir is the directory that the node has as /etc/cni/net.d. Empty at first: the node becomes Ready when a
	// configuration is put there.
	CNIConfDir string
	// CNIBinDir is the directory that the node has as /opt/cni/bin. It has the loopback plugin.
	CNIBinDir string

	cluster    *Cluster
	spec       NodeSpec
	containerd service
	kubelet    service
}

// Addr is the node's InternalIP.
func (n *Node) Addr() netip.Addr { return n.spec.Addr }

// Paths on a node.
const (
	containerdSocket = "/run/containerd/containerd.sock"
	containerdConfig = "/etc/containerd/config.toml"
	kubeletConfig    = "/etc/kubernetes/kubelet.yaml"
)

// startNode starts a node and returns when it has registered.
func (c *Cluster) startNode(ctx context.Context, spec NodeSpec) (*Node, error) {
	dir := filepath.Join(c.lab.Dir(), "nodes", spec.Name)
	n := &Node{
		CNIConfDir: filepath.Join(dir, "cni-conf"),
		CNIBinDir:  filepath.Join(dir, "cni-bin"),
		cluster:    c,
		spec:       spec,
	}
	machine, err := n.machine(dir)
	if err != nil {
		return nil, fmt.Errorf("start node %s: %w", spec.Name, err)
	}
	if n.Node, err = c.lab.StartNode(machine); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{n.startContainerd, n.importImages, n.startKubelet, n.awaitRegistered} {
		if err := step(ctx); err != nil {
			return n, fmt.Errorf("start node %s: %w", spec.Name, err)
		}
	}
	return n, nil
}

// machine says what the node is like below Kubernetes, and makes the directories for it in dir.
func (n *Node) machine(dir string) (netlab.NodeSpec, error) {
	files := map[string]string{
		"/etc/resolv.conf": n.spec.ResolvConf,
		containerdConfig:   n.containerdConfig(),
		kubeletConfig:      n.kubeletConfig(),
	}
	maps.Copy(files, n.spec.Files)
	spec := netlab.NodeSpec{
		Name:     n.spec.Name,
		NetNS:    n.spec.NetNS,
		Overlays: []string{"/etc", "/opt", "/var"},
		Files:    files,
		Binds: []netlab.Bind{
			{Source: n.CNIConfDir, Target: "/etc/cni/net.d"},
			{Source: n.CNIBinDir, Target: "/opt/cni/bin"},
			// Not in an overlay: containerd's snapshots are overlays themselves.
			{Source: filepath.Join(dir, "kubelet"), Target: "/var/lib/kubelet"},
			{Source: filepath.Join(dir, "containerd"), Target: "/var/lib/containerd"},
			{Source: filepath.Join(dir, "pod-logs"), Target: "/var/log/pods"},
		},
		// kubelet sets these of the machine unless they read as it wants them.
		Sysctls: map[string]string{
			"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
			"kernel/panic": "10", "kernel/panic_on_oops": "1",
			"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
		},
	}
	for _, b := range spec.Binds {
		if err := os.MkdirAll(b.Source, 0o755); err != nil {
			return spec, err
		}
	}
	spec.Binds = append(spec.Binds, n.spec.Binds...)
	return spec, copyFile(n.cluster.program("loopback"), filepath.Join(n.CNIBinDir, "loopback"))
}

// command runs one of the cluster's programs on the node.
func (n *Node) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return n.Command(ctx, n.cluster.program(name), args...)
}

func (n *Node) startContainerd(ctx context.Context) error {
	var err error
	cmd := n.command(context.Background(), "containerd", "--config", containerdConfig) // the lab ends it
	if n.containerd, err = n.cluster.launch("containerd", filepath.Join(n.Dir(), "containerd.log"), cmd); err != nil {
		return err
	}
	return n.containerd.await(ctx, func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", n.MachinePath(containerdSocket))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (n *Node) importImages(ctx context.Context) error {
	for _, archive := range n.cluster.archives() {
		cmd := n.command(ctx, "ctr", "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", archive)
		if err := runQuietly(cmd); err != nil {
			return fmt.Errorf("import image %s: %w", filepath.Base(archive), err)
		}
	}
	return nil
}

func (n *Node) startKubelet(ctx context.Context) error {
	args := []string{
		"--config=" + kubeletConfig, "--kubeconfig=" + n.cluster.Kubeconfig(),
		"--hostname-override=" + n.Name(), "--node-ip=" + n.spec.Addr.String(),
		"--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki", "-v=2",
	}
	if n.spec.Labels != "" {
		args = append(args, "--node-labels="+n.spec.Labels)
	}
	var err error
	cmd := n.command(context.Background(), "kubelet", args...) // the lab ends it
	if n.kubelet, err = n.cluster.launch("kubelet", filepath.Join(n.Dir(), "kubelet.log"), cmd); err != nil {
		return err
	}
	return n.kubelet.await(ctx, healthyIn(n.spec.NetNS, "http://127.0.0.1:10248/healthz"))
}

func (n *Node) awaitRegistered(ctx context.Context) error {
	return n.kubelet.await(ctx, func(ctx context.Context) error {
		_, err := n.cluster.api.get(ctx, "/api/v1/nodes/"+n.Name())
		return err
	})
}

// RestartKubelet kills kubelet and starts it again; the pods go on meanwhile. For a moment after it, kubelet does not
// know its pods: Exec and Logs fail.
func (n *Node) RestartKubelet(tb testing.TB) {
	tb.Helper()
	n.kubelet.process.Kill()
	if err := n.startKubelet(tb.Context()); err != nil {
		tb.Fatalf("restart kubelet of %s: %v", n.Name(), err)
	}
}

// RestartContainerd kills containerd and starts it again; the pods go on meanwhile.
func (n *Node) RestartContainerd(tb testing.TB) {
	tb.Helper()
	n.containerd.process.Kill()
	if err := n.startContainerd(tb.Context()); err != nil {
		tb.Fatalf("restart containerd of %s: %v", n.Name(), err)
	}
}

func (n *Node) containerdConfig() string {
	return fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = %q
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = %q
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
`, containerdSocket, pauseImage, n.cluster.program("runcwrap"))
}

// kubeletConfig turns off what needs cgroup controllers that the node does not have, and evictions for what the
// machine's own disk is filled with.
func (n *Node) kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
makeIPTablesUtilChains: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDNS: [%q]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
readOnlyPort: 0
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", imagefs.available: "0%%", nodefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
volumePluginDir: /var/lib/kubelet/volume-plugins
providerID: %q
`, containerdSocket, n.cluster.cfg.ClusterDNS, n.spec.ProviderID)
}

// archives lists the image files that every node gets.
func (c *Cluster) archives() []string {
	files, _ := filepath.Glob(filepath.Join(c.dir, "images", "*.tar")) // the pattern is well-formed
	return files
}

func (c *Cluster) saveImages() error {
	dir := filepath.Join(c.dir, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	images := append([]Image{
		{Ref: pauseImage, Entrypoint: []string{"/pause"}, Files: map[string]string{"/pause": c.program("pause")}},
		{
			Ref:        PodappImage,
			Entrypoint: []string{"/podapp"},
			Files:      map[string]string{"/podapp": c.program("podapp"), "/bin/busybox": busybox},
			Links:      map[string]string{"/bin/sh": "busybox"},
		},
	}, c.cfg.Images...)
	for i, img := range images {
		if err := img.save(filepath.Join(dir, fmt.Sprintf("%d.tar", i))); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies an executable.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
