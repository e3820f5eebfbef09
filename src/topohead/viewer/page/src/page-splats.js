// The page with Spark, for scenes that hold splats.
import { Splats } from "./splats.js";
import { start } from "./viewer.js";

start({ splats: Splats.open });
