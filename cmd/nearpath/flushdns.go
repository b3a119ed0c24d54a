package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
)

const flushDNSPath = "/v1/dns/flush"

// A flushRequest names what to forget.
type flushRequest struct {
	Name string `json:"name"`
}

// A flushedView is what was forgotten.
type flushedView struct {
	Name string `json:"name"`
	// Kernel is how many answers the kernel held, Stays how many of the cluster's zone it goes on to hold.
	Kernel int  `json:"kernel"`
	Stays  int  `json:"stays"`
	Agent  bool `json:"agent"` // whether an agent has emptied its cache of the name, too
}

func newDNS() *cobra.Command {
	cmd := &cobra.Command{Use: "dns", Short: "Change what the node's DNS holds"}
	cmd.AddCommand(newFlushDNS())
	return cmd
}

func newFlushDNS() *cobra.Command {
	var (
		o    outputOptions
		pins string
	)
	cmd := &cobra.Command{
		Use:   "flush NAME",
		Short: "Forget the answers for a name, in the kernel and in the agent's cache",
		Long: `Forget the answers for a name, of all types and for all searches, in the kernel and in the agent's cache: the next question goes to
an upstream. Names of the cluster's zone stay: they follow the cluster. Without an agent the kernel's answers are forgotten alone.`,
		Args: oneArgument("name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, ok := dns.IsDomainName(args[0]); !ok {
				return usageError{fmt.Errorf("%q is not a domain name", args[0])}
			}
			view, err := flushDNS(cmd.Context(), agentapi.NewClient(o.socket), pins, dns.CanonicalName(args[0]))
			if err != nil {
				return err
			}
			body, err := json.Marshal(view)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), body, printFlushed)
		},
	}
	o.addTo(cmd)
	cmd.Flags().StringVar(&pins, "pins", defaultPinDir, "the directory of the maps' pins")
	return cmd
}

// flushDNS asks the agent first, which would publish again what it still has.
func flushDNS(ctx context.Context, agent *agentapi.Client, pins, name string) (flushedView, error) {
	view := flushedView{Name: name}
	err := agent.Post(ctx, flushDNSPath, flushRequest{name}, &view.Kernel)
	if err != nil && !errors.Is(err, agentapi.ErrUnavailable) {
		return view, err
	}
	view.Agent = err == nil
	return view, flushKernel(pins, &view)
}

// flushKernel deletes what the kernel holds besides what follows from the cluster.
func flushKernel(pins string, view *flushedView) (err error) {
	answers, err := bpf.OpenAnswers(pins)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answers.Close()) }()
	var keys []bpf.AnswerKey
	for a, err := range answers.All() {
		switch {
		case err != nil:
			return err
		case a.Name != view.Name:
		case a.Scope == 0 && a.Expires == 0:
			view.Stays++
		default:
			keys = append(keys, a.AnswerKey)
		}
	}
	for _, k := range keys {
		if err := answers.Delete(k); err != nil {
			return err
		}
		view.Kernel++
	}
	return nil
}

func printFlushed(w io.Writer, body json.RawMessage) error {
	var v flushedView
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %d answers of the kernel are forgotten", v.Name, v.Kernel)
	if v.Agent {
		fmt.Fprint(w, ", and what the agent's cache had")
	} else {
		fmt.Fprint(w, "; no agent answers")
	}
	fmt.Fprintln(w)
	if v.Stays > 0 {
		fmt.Fprintf(w, "%d entries of the cluster's zone stay: they follow the cluster\n", v.Stays)
	}
	return nil
}
