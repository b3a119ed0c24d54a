// Package agentlab runs nearpath's agent on nodes of a lab, and pods as a container runtime makes them.
package agentlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// patience bounds the wait for one condition.
const patience = 3 * time.Minute

// Build makes nearpath and nearpath-cni in dir. The working directory must be in the module.
func Build(dir string) error {
	const module = "github.com/nearpath/nearpath"
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir, module+"/cmd/nearpath", module+"/cmd/nearpath-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

// A Node is an instance of the simulated cloud with an agent.
type Node struct {
	*netlab.Node
	Machine cloudlab.Machine
	API     *agentapi.Client

	lab   *netlab.Lab
	bin   string
	agent *netlab.Process

	cni      *libcni.CNIConfig
	conflist *libcni.NetworkConfigList
}

// Start makes an instance called name that is a node. bin has the programs, and settings are added to the agent's configuration of the
// cloud. No agent runs on it yet.
func Start(ctx context.Context, lab *netlab.Lab, cloud *cloudlab.Cloud, name, bin, settings string) (*Node, error) {
	n := &Node{lab: lab, bin: bin}
	var err error
	if n.Machine, err = cloud.Machine(ctx, name); err != nil {
		return nil, err
	}
	if n.Node, err = lab.StartNode(netlab.NodeSpec{Name: name, NetNS: n.Machine.NetNS}); err != nil {
		return nil, err
	}
	n.API = agentapi.NewClient(n.MachinePath(agentapi.DefaultSocket))
	config := cloud.AgentConfig(name) + fmt.Sprintf("stateDir: %s\n%s", filepath.Join(n.Dir(), "state"), settings)
	if err := os.WriteFile(n.config(), []byte(config), 0o644); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) config() string { return filepath.Join(n.Dir(), "config.yaml") }

func (n *Node) logFile() string { return filepath.Join(n.Dir(), "agent.log") }

// Log is what agents have written so far.
func (n *Node) Log() string {
	text, _ := os.ReadFile(n.logFile()) // there is none at first
	return string(text)
}

// StartAgent starts the agent and waits until it is ready; pods may be made then.
func (n *Node) StartAgent(ctx context.Context) error {
	if err := n.awaitAgent(ctx); err != nil || n.cni != nil {
		return err
	}
	return n.installCNI(ctx)
}

// awaitAgent starts an agent until it is ready: one that another agent still keeps off is started again, as by its kubelet.
func (n *Node) awaitAgent(ctx context.Context) error {
	err := n.launch(ctx)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-n.agent.Done():
			if err := n.launch(ctx); err != nil {
				return err
			}
		default:
		}
		var view struct{ Waiting []string }
		if err = n.API.Get(ctx, "/v1/ready", &view); err == nil && len(view.Waiting) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it waits for %v", view.Waiting)
		}
	}
	return fmt.Errorf("waited %s for the agent of %s: %w", patience, n.Name(), err)
}

func (n *Node) launch(ctx context.Context) error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(n.bin, "nearpath"), "agent", "--config", n.config())
	cmd.Stdout, cmd.Stderr = log, log
	n.agent, err = n.lab.Start(cmd)
	return err
}

// KillAgent ends the agent as the kernel would for lack of memory, and waits until it is gone.
func (n *Node) KillAgent() {
	n.agent.Kill()
	<-n.agent.Done()
}

// StopAgent ends the agent as its supervisor does, and waits until it is gone.
func (n *Node) StopAgent() error {
	// The process is nsenter, the agent is in its group.
	if err := syscall.Kill(-n.agent.PID(), syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the agent of %s: %w", n.Name(), err)
	}
	select {
	case <-n.agent.Done():
	case <-time.After(patience):
		return fmt.Errorf("waited %s for the agent of %s to stop", patience, n.Name())
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(-n.agent.PID(), 0); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for the agent of %s to stop", patience, n.Name())
		}
	}
}

// Use has the next agent be that of another directory of programs.
func (n *Node) Use(bin string) { n.bin = bin }

// installCNI does what the agent's installer does and reads the network configuration that it wrote, as a runtime does.
func (n *Node) installCNI(ctx context.Context) error {
	bin, conf := filepath.Join(n.Dir(), "cni", "bin"), filepath.Join(n.Dir(), "cni", "net.d")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(conf, 0o755)); err != nil {
		return err
	}
	cmd := n.Command(ctx, filepath.Join(n.bin, "nearpath"), "cni", "install", "--from", n.bin, "--bin-dir", bin, "--conf-dir", conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install the CNI plugin on %s: %w: %s", n.Name(), err, out)
	}
	text, err := os.ReadFile(filepath.Join(conf, "05-nearpath.conflist"))
	if err != nil {
		return err
	}
	if n.conflist, err = libcni.NetworkConfFromBytes(text); err != nil {
		return err
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(n.Dir(), "cni", "cache"), onNode{n.Node})
	return nil
}
