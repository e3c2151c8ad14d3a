package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
)

// schema is that of SARIF 2.1.0, by which readers know the format.
const schema = "https://json.schemastore.org/sarif-2.1.0.json"

// The parts of SARIF 2.1.0 that we use, under its own names.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID     string      `json:"id"`
		Short  sarifText   `json:"shortDescription"`
		Config sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level Level `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       Rule              `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        Level             `json:"level"`
		Kind         string            `json:"kind"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifLogical struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
		Full string `json:"fullyQualifiedName"`
	}
)

// SARIF is the list in SARIF 2.1.0, for pipelines. What is as it should be is no result.
func SARIF(all []Holding, version string) ([]byte, error) {
	run := sarifRun{Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "taskrole", Version: version}
	for _, r := range rules {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{string(r.rule), sarifText{r.text}, sarifConfig{r.level}})
	}
	for _, h := range all {
		if h.Level == None {
			continue
		}
		name := strings.TrimPrefix(h.Engine+"/"+h.Kind+"/"+h.Name, "/")
		sum := sha256.Sum256([]byte(strings.Join([]string{string(h.Rule), h.Engine, h.Kind, h.Name, h.Identity, h.How}, "\n")))
		run.Results = append(run.Results, sarifResult{
			RuleID: h.Rule, RuleIndex: h.Rule.rank(), Level: h.Level, Kind: "fail",
			Message: sarifText{strings.Join(strings.Fields(h.Engine+" "+h.Kind+" "+h.Name+": "+h.Identity), " ") + ": " + h.How},
			Locations: []sarifLocation{{
				Physical: sarifPhysical{sarifArtifact{(&url.URL{Path: name}).EscapedPath()}},
				Logical:  []sarifLogical{{Name: h.Name, Kind: "resource", Full: name}},
			}},
			Fingerprints: map[string]string{"taskrole/v1": hex.EncodeToString(sum[:])},
		})
	}
	return json.MarshalIndent(sarifLog{Schema: schema, Version: "2.1.0", Runs: []sarifRun{run}}, "", "  ")
}
