package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/preflight"
	"github.com/nearpath/nearpath/internal/strict"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

// checkTimeout bounds all questions to the metadata service and the cloud together.
const checkTimeout = 2 * time.Minute

// The check of findings about the configuration file itself. Their object is the path of the setting in the file.
const (
	checkSetting = "setting"
	checkNote    = "setting-without-effect"
)

// A findingView is a finding of "nearpath check", as JSON and as a row.
type findingView struct {
	Check    string   `json:"check"`
	Object   string   `json:"object"`
	Severity string   `json:"severity"`
	Result   string   `json:"result"`
	Values   []string `json:"values"`
	Fix      string   `json:"fix,omitempty"`
}

func newCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check whether the network can work as configured",
		Long: `Check asks the cloud about the network that a configuration of the agent is for. It changes nothing. The exit status is
1 when something cannot work, and 2 when the checks could not be made as asked for.`,
	}
	var c checkCommand
	cmd.PersistentFlags().StringVar(&c.path, "config", "", "the agent's configuration file (YAML)")
	cmd.PersistentFlags().StringVarP(&c.output, "output", "o", "table", "table or json")
	config := &cobra.Command{
		Use:   "config",
		Short: "Check the configuration file, the address plan and what the node is to use of the cloud",
		Long: `Config checks the file, then, on a node, compares it with the cloud: regions, zones, overlapping or misplaced ranges,
security groups, the instance type, free addresses, and the way out of the VPC for each vSwitch of pods.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.offline { // what was not read is nothing that anybody forbade
				return c.run(cmd, preflight.Plan)
			}
			return c.run(cmd, preflight.All)
		},
	}
	config.Flags().BoolVar(&c.offline, "offline", false, "check only the file")
	egress := &cobra.Command{
		Use:   "egress",
		Short: "Check whether pods of each vSwitch have a way out of the VPC",
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.run(cmd, preflight.Egress) },
	}
	cmd.AddCommand(config, egress)
	return cmd
}

// A checkCommand holds the flags of check.
type checkCommand struct {
	path    string
	output  string
	offline bool
}

// run prints what judge finds, or what is wrong with the file, and fails if there is an error among it.
func (c *checkCommand) run(cmd *cobra.Command, judge func(preflight.Facts) []preflight.Finding) error {
	if c.output != "table" && c.output != "json" {
		return usageError{fmt.Errorf("--output %q: use table or json", c.output)}
	}
	cfg, findings, err := c.read()
	if err != nil {
		return usageError{err}
	}
	if !slices.ContainsFunc(findings, isError) { // a file with errors says nothing reliable about the network
		facts, err := c.facts(cmd, cfg)
		if err != nil {
			return err
		}
		findings = append(judge(facts), findings...)
	}
	slices.SortStableFunc(findings, func(a, b preflight.Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	if err := c.print(cmd.OutOrStdout(), findings); err != nil {
		return err
	}
	if slices.ContainsFunc(findings, isError) {
		return errors.New("the network cannot work as configured: see the fixes")
	}
	return nil
}

func isError(f preflight.Finding) bool { return f.Severity == preflight.Error }

// read reads the file. What is wrong with what it says is findings; an error means that there is nothing to check.
func (c *checkCommand) read() (config, []preflight.Finding, error) {
	if c.path != "" {
		if _, err := os.Stat(c.path); err != nil {
			return config{}, nil, fmt.Errorf("--config: %w", err)
		}
	}
	cfg, err := readConfig(c.path)
	if err != nil {
		return cfg, faultFindings(c.path, err), nil
	}
	findings := faultFindings(c.path, cfg.check())
	for _, note := range cfg.notes {
		findings = append(findings, preflight.Finding{
			Check: checkNote, Object: cfg.ENIConfig, Severity: preflight.Warning, Result: "no effect", Values: [2]string{note}, Fix: "remove it",
		})
	}
	return cfg, findings, nil
}

// faultFindings has a finding for every fault that the error joins.
func faultFindings(path string, err error) []preflight.Finding {
	if err == nil {
		return nil
	}
	var findings []preflight.Finding
	for _, f := range faultsOf(err) {
		findings = append(findings, preflight.Finding{
			Check: checkSetting, Object: f.Path, Severity: preflight.Error, Result: "invalid", Values: [2]string{f.Value}, Fix: f.Fix,
		})
	}
	if len(findings) == 0 {
		findings = []preflight.Finding{{
			Check: checkSetting, Object: path, Severity: preflight.Error, Result: "invalid", Values: [2]string{err.Error()}, Fix: "correct the file",
		}}
	}
	return findings
}

// faultsOf collects the faults from every branch of a tree of errors, which errors.As does not.
func faultsOf(err error) (faults []strict.Fault) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // the branches are of this node
		for _, branch := range joined.Unwrap() {
			faults = append(faults, faultsOf(branch)...)
		}
		return faults
	}
	if inner := errors.Unwrap(err); inner != nil {
		return faultsOf(inner)
	}
	if fault, ok := errors.AsType[strict.Fault](err); ok {
		faults = append(faults, fault)
	}
	return faults
}

// facts asks the metadata service and the cloud, or nobody.
func (c *checkCommand) facts(cmd *cobra.Command, cfg config) (preflight.Facts, error) {
	if c.offline {
		return preflight.Facts{Query: queryOf(cfg, aliyun.Instance{})}, nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), checkTimeout)
	defer cancel()
	metadata := aliyun.NewMetadata(cfg.Cloud.Metadata)
	instance, err := metadata.Instance(ctx)
	if err != nil {
		return preflight.Facts{}, usageError{fmt.Errorf("learn which instance this is from %s (--offline checks only the file): %w", cfg.Cloud.Metadata, err)}
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	connected := &agent{cfg: cfg, log: log, metrics: prometheus.NewRegistry()} // to the cloud, and to nothing else
	cloud, err := connected.connect(instance.RegionID, metadata)
	if err != nil {
		return preflight.Facts{}, usageError{err}
	}
	return preflight.Gather(ctx, cloud, queryOf(cfg, instance))
}

// queryOf is what the configuration says of the network of an instance.
func queryOf(cfg config, instance aliyun.Instance) preflight.Query {
	return preflight.Query{
		Instance: instance, RegionID: cfg.Cloud.Region, VSwitches: cfg.Cloud.VSwitches, SecurityGroups: cfg.Cloud.SecurityGroups,
		ServiceCIDRs: cfg.Services.CIDRs, NodeDNS: cfg.DNS.addresses(), DualStack: cfg.Pool.Stack == "dual",
		MaxENIs: cfg.Pool.MaxENIs, Egress: preflight.Mode(cfg.Egress.Mode),
	}
}

func (c *checkCommand) print(out io.Writer, findings []preflight.Finding) error {
	views := []findingView{}
	for _, f := range findings {
		v := findingView{Check: f.Check, Object: f.Object, Severity: f.Severity.String(), Result: f.Result, Fix: f.Fix, Values: []string{}}
		for _, value := range f.Values {
			if value != "" {
				v.Values = append(v.Values, value)
			}
		}
		views = append(views, v)
	}
	body, err := json.Marshal(views)
	switch {
	case err != nil:
		return err
	case c.output == "json":
		_, err = fmt.Fprintf(out, "%s\n", body)
		return err
	case len(views) == 0:
		_, err = fmt.Fprintln(out, "nothing wrong was found")
		return err
	}
	return table("CHECK\tOBJECT\tRESULT\tVALUES\tFIX", findingRow)(out, body)
}

func findingRow(v findingView) []any {
	result := v.Severity
	if v.Result != v.Severity {
		result += ": " + v.Result
	}
	return []any{v.Check, cmp.Or(v.Object, "-"), result, cmp.Or(strings.Join(v.Values, "; "), "-"), cmp.Or(v.Fix, "-")}
}
