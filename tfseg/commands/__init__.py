"""What the `tfseg` command can do: one frozen dataclass per subcommand, its fields the arguments."""
