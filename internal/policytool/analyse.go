package policytool

// analysing are the commands that look at policies and evidence.
func analysing() []command {
	return []command{diffCommand(), mergeCommand(), dryRunCommand(), explainCommand(), learnCommand(), eventLogCommand()}
}
