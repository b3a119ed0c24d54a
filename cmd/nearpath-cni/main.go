// Command nearpath-cni is the CNI plugin that a container runtime executes. It does nothing itself: it hands the
// invocation to the node's agent over a unix socket and prints the answer in the version that the runtime asked for.
//
// It starts once per verb and pod, so what it imports is a budget that a test holds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nearpath/nearpath/internal/agentapi"
)

const (
	agentWait = 10 * time.Second       // how long ADD waits for an absent agent
	agentPoll = 100 * time.Millisecond // how often it looks
	// addTimeout bounds an ADD, which may wait for the cloud to give an address. It stays below the time a kubelet gives
	// a runtime for a sandbox (4 minutes).
	addTimeout = 2 * time.Minute
	// otherTimeout bounds the other verbs.
	otherTimeout = 30 * time.Second
)

// codeNotAvailable is STATUS's answer when no container can be added (CNI specification 1.1.0, section 5).
const codeNotAvailable = 50

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"),
		"nearpath-cni: wires pods through the nearpath agent")
}

// config is what the executable itself needs of the network configuration; the agent reads it strictly.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Socket     string `json:"socket"`
}

func readConfig(args *skel.CmdArgs) (config, error) {
	var c config
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return config{}, types.NewError(types.ErrDecodingFailure, "read network configuration", err.Error())
	}
	return c, nil
}

func requestOf(verb string, args *skel.CmdArgs) agentapi.CNIRequest {
	return agentapi.CNIRequest{
		Command: verb, ContainerID: args.ContainerID, NetNS: args.Netns, IfName: args.IfName, Args: args.Args,
		Config: args.StdinData,
	}
}

func add(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), addTimeout)
	defer cancel()
	answer, err := askPatiently(ctx, agentapi.NewClient(c.Socket), requestOf("ADD", args))
	if err != nil {
		return types.NewError(types.ErrTryAgainLater, "nearpath agent did not add the container", err.Error())
	}
	if answer.Error != nil {
		return convert(answer.Error)
	}
	result, err := types100.NewResult(answer.Result)
	if err != nil {
		return fmt.Errorf("read the agent's result: %w", err)
	}
	return types.PrintResult(result, c.CNIVersion)
}

// askPatiently gives an agent that is being restarted some time to come back.
func askPatiently(ctx context.Context, client *agentapi.Client, r agentapi.CNIRequest) (agentapi.CNIResponse, error) {
	wait, cancel := context.WithTimeout(ctx, agentWait)
	defer cancel()
	for {
		answer, err := client.CNI(ctx, r)
		if !errors.Is(err, agentapi.ErrUnavailable) {
			return answer, err
		}
		select {
		case <-time.After(agentPoll):
		case <-wait.Done():
			return agentapi.CNIResponse{}, err
		}
	}
}

// del succeeds without the agent: it leaves a note that the agent carries out when it is back. The runtime may thus
// forget the container, as the specification wants (1.1.0, section 2, DEL).
func del(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil {
		return err
	}
	r := requestOf("DEL", args)
	answer, err := ask(c, r)
	if err != nil {
		if noteErr := agentapi.WritePending(agentapi.PendingDir(c.Socket), r); noteErr != nil {
			return types.NewError(types.ErrTryAgainLater, "nearpath agent did not delete the container", errors.Join(err, noteErr).Error())
		}
		return nil
	}
	return convert(answer.Error)
}

func check(args *skel.CmdArgs) error { return pass("CHECK", args, types.ErrTryAgainLater) }

func gc(args *skel.CmdArgs) error { return pass("GC", args, types.ErrTryAgainLater) }

func status(args *skel.CmdArgs) error { return pass("STATUS", args, codeNotAvailable) }

// pass asks the agent; absent is the error code when it does not answer.
func pass(verb string, args *skel.CmdArgs, absent uint) error {
	c, err := readConfig(args)
	if err != nil {
		return err
	}
	answer, err := ask(c, requestOf(verb, args))
	if err != nil {
		return types.NewError(absent, "nearpath agent did not answer", err.Error())
	}
	return convert(answer.Error)
}

func ask(c config, r agentapi.CNIRequest) (agentapi.CNIResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), otherTimeout)
	defer cancel()
	return agentapi.NewClient(c.Socket).CNI(ctx, r)
}

// convert makes the agent's error the library's; nil stays nil.
func convert(e *agentapi.CNIError) error {
	if e == nil {
		return nil
	}
	return types.NewError(e.Code, e.Msg, e.Details)
}
