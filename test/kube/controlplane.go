package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// startControlPlane starts etcd and the Kubernetes programs in the control plane's network namespace.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	// etcd's data is gone with the lab: durability would only cost time.
	_, err := c.startControl("etcd", "etcd", "--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	apiserver, err := c.startControl("kube-apiserver", c.program("kube-apiserver"), c.apiserverFlags()...)
	if err != nil {
		return err
	}
	if err := apiserver.await(ctx, c.apiReady); err != nil {
		return err
	}
	controllers, err := c.startControl("kube-controller-manager", c.program("kube-controller-manager"),
		"--kubeconfig="+c.Kubeconfig(), "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file="+filepath.Join(c.dir, "sa.key"), "--root-ca-file="+c.CAFile(),
		"--cert-dir="+filepath.Join(c.dir, "controllers"),
		"--flex-volume-plugin-dir="+filepath.Join(c.dir, "flex")) // the default is made on the machine
	if err != nil {
		return err
	}
	scheduler, err := c.startControl("kube-scheduler", c.program("kube-scheduler"),
		"--kubeconfig="+c.Kubeconfig(), "--leader-elect=false", "--cert-dir="+filepath.Join(c.dir, "scheduler"))
	if err != nil {
		return err
	}
	if err := controllers.await(ctx, c.healthy("https://127.0.0.1:10257/healthz")); err != nil {
		return err
	}
	return scheduler.await(ctx, c.healthy("https://127.0.0.1:10259/healthz"))
}

func (c *Cluster) apiserverFlags() []string {
	key := filepath.Join(c.dir, "sa.key")
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range=" + c.cfg.ServiceCIDR.String(),
		"--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--cert-dir=" + filepath.Join(c.dir, "certs"), // it makes its own certificate there
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--bind-address=0.0.0.0",
		"--advertise-address=" + c.cfg.ControlPlane.Addr.String(),
		"--token-auth-file=" + filepath.Join(c.dir, "tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--allow-privileged",
		"--kubelet-preferred-address-types=InternalIP",
	}
}

// startControl starts one program of the control plane.
func (c *Cluster) startControl(name, path string, args ...string) (service, error) {
	if _, err := exec.LookPath(path); err != nil {
		return service{}, err
	}
	cmd := c.cfg.ControlPlane.NetNS.Command(context.Background(), path, args...) // the lab ends it
	cmd.Dir = c.dir
	s, err := c.launch(name, filepath.Join(c.dir, name+".log"), cmd)
	if err != nil {
		return service{}, err
	}
	c.control = append(c.control, s)
	return s, nil
}

// apiReady makes the client for the API as soon as the apiserver has made its certificate, and asks whether it is
// ready.
func (c *Cluster) apiReady(ctx context.Context) error {
	if c.api.http == nil {
		ca, err := os.ReadFile(c.CAFile())
		if err != nil {
			return err
		}
		if c.api, err = newAPIClient(c.cfg.ControlPlane, ca, c.token); err != nil {
			return err
		}
	}
	_, err := c.api.get(ctx, "/readyz")
	return err
}

// awaitServiceAccount waits for the controllers to make the ServiceAccount without which no pod is accepted.
func (c *Cluster) awaitServiceAccount(ctx context.Context) error {
	return c.control[len(c.control)-1].await(ctx, func(ctx context.Context) error {
		_, err := c.api.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
}
