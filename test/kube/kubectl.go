package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// kubectlTimeout bounds one kubectl; waiting is done by the methods that wait.
const kubectlTimeout = 60 * time.Second

// Command is a kubectl command, for what the other methods do not cover: streams, or a process of its own. It runs
// in the control plane's network namespace and ends with ctx.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--kubeconfig", c.Kubeconfig()}, args...)
	cmd := c.cfg.ControlPlane.NetNS.Command(ctx, c.program("kubectl"), args...)
	cmd.Dir = c.dir // also where it keeps its caches
	cmd.Env = []string{"HOME=" + c.dir, "PATH=" + c.binDir()}
	return cmd
}

// TryKubectl runs kubectl and returns its standard output; its standard error is part of the error.
func (c *Cluster) TryKubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, "", args...)
}

// Kubectl is TryKubectl where a failure ends the test.
func (c *Cluster) Kubectl(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := c.TryKubectl(tb.Context(), args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, kubectlTimeout)
	defer cancel()
	cmd := c.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Apply applies manifests.
func (c *Cluster) Apply(tb testing.TB, yaml string) {
	tb.Helper()
	if _, err := c.kubectl(tb.Context(), yaml, "apply", "-f", "-"); err != nil {
		tb.Fatal(err)
	}
}

// Delete deletes what manifests name and waits until it is gone.
func (c *Cluster) Delete(tb testing.TB, yaml string) {
	tb.Helper()
	if _, err := c.kubectl(tb.Context(), yaml, "delete", "--ignore-not-found", "--wait", "-f", "-"); err != nil {
		tb.Fatal(err)
	}
}

// Exec runs a command in a pod's first container and returns its standard output. A failure ends the test.
func (c *Cluster) Exec(tb testing.TB, pod string, command ...string) string {
	tb.Helper()
	out, err := c.TryExec(tb.Context(), pod, command...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// TryExec runs a command in the first container of pod ("namespace/name") and returns its standard output.
func (c *Cluster) TryExec(ctx context.Context, pod string, command ...string) (string, error) {
	namespace, name, err := splitPod(pod)
	if err != nil {
		return "", err
	}
	return c.TryKubectl(ctx, append([]string{"exec", "-n", namespace, name, "--"}, command...)...)
}

// Logs returns what a pod's first container has written.
func (c *Cluster) Logs(tb testing.TB, pod string) string {
	tb.Helper()
	namespace, name, err := splitPod(pod)
	if err != nil {
		tb.Fatal(err)
	}
	return c.Kubectl(tb, "logs", "-n", namespace, name)
}

// Get decodes the object that ref names (see WaitReady) into a value of one of the types of k8s.io/api, or of a
// struct with the fields of interest. An object that does not exist ends the test.
func (c *Cluster) Get(tb testing.TB, ref string, into any) {
	tb.Helper()
	if err := c.TryGet(tb.Context(), ref, into); err != nil {
		tb.Fatal(err)
	}
}

// TryGet is Get that returns its failure.
func (c *Cluster) TryGet(ctx context.Context, ref string, into any) error {
	r, err := parseRef(ref)
	if err != nil {
		return err
	}
	body, err := c.api.get(ctx, r.path())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode %s: %w", ref, err)
	}
	return nil
}

func splitPod(pod string) (namespace, name string, err error) {
	namespace, name, found := strings.Cut(pod, "/")
	if !found || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("pod %q is not namespace/name", pod)
	}
	return namespace, name, nil
}
